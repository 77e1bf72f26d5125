"""MLPerf's scenarios, driven by the real LoadGen where it is installed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.runtime.bench.loadgen import SCENARIOS, Run, highest, measured, read
from attar.runtime.errors import DataError, MissingExtraError, SettingsError
from attar.runtime.model import Model, load
from tests.fixtures_bundle import make_tiny_bundle

TEXTS = ["a gripping film", "dull", "funny and warm and much too long for what it has to say"]
LOGS = {"mlperf_log_summary.txt", "mlperf_log_detail.txt"}
SUMMARY = """================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 506.73
Result is : INVALID
  Performance constraints satisfied : Yes
  Min duration satisfied : NO
90.00 percentile latency (ns)   : 4000000
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("loadgen") / "bundle"
    make_tiny_bundle(folder)
    return load(folder, threads=1)


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if s != "multi-stream"])
def test_a_scenario_runs_and_keeps_its_logs(model: Model, tmp_path: Path, scenario: str) -> None:
    pytest.importorskip("mlperf_loadgen")
    found = measured(model, TEXTS, Run(scenario, seconds=0.2, latency_ms=1000, qps=50), tmp_path / "logs")
    assert found.scenario == scenario and found.value > 0 and str(found).startswith(f"{scenario}: ")
    assert {p.name for p in (tmp_path / "logs").iterdir()} >= LOGS
    assert (
        found.summary["Result is"] == ("VALID" if found.valid else "INVALID") == found.to_json()["summary"]["Result is"]
    )


def test_the_server_scenario_finds_a_rate_of_its_own(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("mlperf_loadgen")
    found = highest(model, TEXTS, Run("server", seconds=0.05, latency_ms=2000), tmp_path)
    assert found.scenario == "server"
    assert {"offline", "server-0.9"} <= {p.name for p in tmp_path.iterdir()}


def test_a_failing_model_is_an_error_and_no_hang(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlperf_loadgen")

    def broken(*_: Any) -> Any:
        raise DataError("the network is gone")

    monkeypatch.setattr(model.engine, "run", broken)
    for scenario in ("offline", "server"):
        with pytest.raises(DataError, match="the network is gone"):
            measured(model, TEXTS, Run(scenario, seconds=0.1, qps=20), tmp_path / scenario)


def test_a_summary_is_read() -> None:
    found = read("server", SUMMARY)
    assert (found.value, found.valid, found.measure) == (506.73, False, "samples a second")
    assert found.summary["Min duration satisfied"] == "NO"
    single = read("single-stream", "90th percentile latency (ns) : 3975500\nResult is : VALID\n")
    assert (single.value, single.valid) == (3.9755, True) and single.measure.startswith("ms")
    with pytest.raises(DataError, match="no result of the offline scenario"):
        read("offline", "nothing here")


def test_bad_input(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="unknown scenario 'fast'; known: single-stream"):
        Run("fast")
    with pytest.raises(SettingsError, match="qps must be a number above 0, not nan"):
        Run("server", qps=float("nan"))
    with pytest.raises(DataError, match="at least one text"):
        measured(model, [], Run("offline"), tmp_path / "logs")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not an empty folder"):
        measured(model, TEXTS, Run("offline"), tmp_path / "full")
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(MissingExtraError, match=r"attar\[mlperf\]"):
        measured(model, TEXTS, Run("offline"), tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlperf_loadgen")
    bundle = str(make_tiny_bundle(tmp_path / "b"))
    command = ["bench", bundle, "--threads", "1", "--mlperf"]
    logs = str(tmp_path / "logs")
    assert main([*command, "offline", "--logs", logs, "--seconds", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scenario"] == "offline" and set(os.listdir(logs)) >= LOGS
    for more, words in (
        (["offline"], "say where with --logs"),
        (["fast", "--logs", str(tmp_path / "new")], "unknown scenario 'fast'"),
        (["offline", "--logs", logs], "not an empty folder"),
        (["offline", "--logs", logs, "--qps", "5"], "--qps is of the server scenario"),
        (["offline", "--logs", logs, "--against", bundle], "leave out --against"),
    ):
        assert main([*command, *more]) == 2
        assert words in capsys.readouterr().err
    assert main(["bench", bundle, "--logs", logs]) == 2 and "give --mlperf too" in capsys.readouterr().err
