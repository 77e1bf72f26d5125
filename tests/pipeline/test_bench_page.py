"""The page and the exit code of a benchmark, on made-up results: nothing is measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.pipeline.bench_page import bench_page, sweep_page
from attar.runtime.bench.decide import certify
from attar.runtime.bench.histogram import Histogram
from attar.runtime.bench.paired import Ratio
from attar.runtime.bench.result import NOISY, BenchResult, Speedup, SystemResult
from attar.runtime.bench.sweep import Cell, SweepResult
from tests.fixtures_bundle import make_tiny_bundle

EQUAL, TWICE = Ratio(1.0, 0.995, 1.005, 9), Ratio(2.0, 1.9, 2.1, 9)
APART = Ratio(1.1, 1.05, 1.15, 9)


def system(name: str, ms: int, rate: float, size: float) -> SystemResult:
    calls = Histogram(ms * 1_000_000 + 1000 * i for i in range(600))
    return SystemResult(name, "made up", calls, rate, 8, 0.5, 3.0, peak_mb=80.0, size_mb=size)


def result(same: Ratio = EQUAL, judged: bool = True) -> BenchResult:
    accuracy = {"measure": "accuracy", "bundle": 91.0, "baselines": {"<teacher>": 92.0}} if judged else None
    return BenchResult(
        systems=(system("tiny", 1, 900.0, 4.0), system("<teacher>", 2, 450.0, 90.0)),
        ratios=tuple(Speedup("<teacher>", metric, TWICE) for metric in ("p50", "throughput")),
        certificate=certify({"p50": same, "throughput": EQUAL}),
        machine={"cpu": "made up"},
        threads=1,
        texts=60,
        mean_tokens=12.0,
        how="made up",
        accuracy=accuracy,
    )


def cells() -> SweepResult:
    quiet = certify({"throughput": EQUAL})
    return SweepResult(
        tuple(
            Cell(batch, 16.0, 1, "onnx", name, ms * batch, 1e3 / ms, speedup, quiet)
            for batch in (1, 8)
            for name, ms, speedup in (("tiny", 1.0, None), ("<teacher>", 2.0, TWICE))
        )
    )


@pytest.mark.parametrize("page", [bench_page(result()), sweep_page(cells())])
def test_a_page_makes_no_request_and_escapes_names(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
    assert "<teacher>" not in page and "&lt;teacher&gt;" in page
    assert "<script" not in page and "<link" not in page and 'src="' not in page
    assert page.count("http") == page.count('"http://www.w3.org/')  # names of XML, which nobody fetches


def test_pictures_without_accuracy_and_with_it() -> None:
    judged, timed = bench_page(result()), bench_page(result(judged=False))
    assert ("Accuracy and size" in judged, "Accuracy and size" in timed) == (True, False)
    assert timed.count("<svg") == 3 and judged.count("<svg") == 5
    assert sweep_page(cells()).count("<svg") == 1


def test_a_noisy_machine_is_marked_beside_every_figure() -> None:
    table = result(APART).table()
    assert table.count(NOISY) == 2 and "machine noisy" in table
    assert NOISY not in result().table() and "against itself 0.995 to 1.005" in result().table()
    assert "figures are not to be quoted" in bench_page(result(APART))


def test_the_table_has_counts_memory_and_start(capsys: pytest.CaptureFixture[str]) -> None:
    head, first, *_ = result().table().splitlines()
    cells = dict(zip(head.split("  "), first.split("  "), strict=False))
    assert cells["system"] == "tiny"
    record = result().to_json()["systems"][0]
    assert (record["calls"], record["peak_mb"], record["load_s"], record["first_ms"]) == (600, 80.0, 0.5, 3.0)
    assert record["p999_ms"] is None  # of 600 calls not one lies beyond it
    assert record["max_ms"] == pytest.approx(1.599)


@pytest.mark.parametrize(("same", "code"), [(EQUAL, 0), (APART, 3)])
def test_a_noisy_machine_exits_with_3(
    same: Ratio, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bench(*_: Any) -> BenchResult:
        return result(same)

    monkeypatch.setattr("attar.runtime.bench.coordinator.bench", bench)
    bundle, page = make_tiny_bundle(tmp_path / "tiny"), tmp_path / "report.html"
    assert main(["bench", str(bundle), "--json", "--report", str(page)]) == code
    said = capsys.readouterr()
    assert json.loads(said.out)["certificate"]["verdict"] == ("noisy" if code else "quiet")
    assert ("too noisy" in said.err) == bool(code)
    assert page.is_file()


def test_wrong_arguments_are_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(make_tiny_bundle(tmp_path / "tiny"))
    for arguments, said in (
        (["--report", str(tmp_path / "none/report.html")], "a folder that exists"),
        (["--sweep", "batch=1", "--threads", "1"], "say threads=N there"),
        (["--sweep", "rows=1"], "a sweep is over batch"),
        (["--baseline", "onnx"], "name its folder with --against"),
        (["--baseline", "jax"], "--baseline is one of torch, torch-compile, torch-bf16, onnx, not 'jax'"),
    ):
        assert main(["bench", bundle, *arguments]) == 2
        assert said in capsys.readouterr().err
