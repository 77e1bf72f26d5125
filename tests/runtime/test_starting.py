"""Engines as they are chosen: `auto` measures and remembers, too old versions are refused, shapes are warmed up."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import attar
from attar.cli import main
from attar.runtime.engines import auto, starting
from attar.runtime.engines.starting import Choice
from attar.runtime.engines.versions import numbers, require_version
from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.server import Settings
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models
from attar.runtime.server.run import shelf
from attar.runtime.waiting import Limits
from tests.fixtures_bundle import MAX_LENGTH, make_tiny_bundle


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engines that were started, in order."""
    found: list[str] = []
    real = starting.start

    def start(choice: Choice, *rest: Any) -> Any:
        found.append(choice.words)
        return real(choice, *rest)

    monkeypatch.setattr("attar.runtime.model.start_engine", start)
    return found


def test_the_fastest_is_measured_once_and_told(
    cache: Path, started: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = make_tiny_bundle(tmp_path / "b")
    speeds = {"onnx cpu": 3.0, "openvino cpu": 2.0}
    monkeypatch.setattr(auto, "measure", lambda models: {choice: speeds[choice.words] for choice in models})
    with caplog.at_level(logging.INFO, "attar"):
        model = attar.load(path, engine="auto", threads=1)
    assert model.engine.name.startswith("openvino") and model("a good film").label == "positive"
    assert started == [choice.words for choice in auto.CANDIDATES]
    said = caplog.text
    assert "openvino on cpu is the fastest with 1 threads" in said and "onnx cpu 3 ms, openvino cpu 2 ms" in said
    assert "Left out: onnx cuda: device 'cuda' was asked for" in said
    assert "tensorrt cuda: the bundle lists no tensorrt.onnx" in said
    started.clear()
    assert attar.load(path, engine="auto", threads=1).engine.name == model.engine.name
    assert started == ["openvino cpu"]
    # Other threads are another question, and so is another bundle.
    monkeypatch.setitem(speeds, "openvino cpu", 4.0)
    assert attar.load(path, engine="auto", threads=2).engine.name.startswith("onnxruntime")
    other = make_tiny_bundle(tmp_path / "other", name="other")
    assert attar.load(other, engine="auto", threads=1).engine.name.startswith("onnxruntime")
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "engine   openvino on cpu is the fastest with 1 threads" in out
    assert "engine   onnx on cpu is the fastest with 2 threads" in out


@pytest.mark.parametrize("content", [b"", b"[]", b'{"engine": 1}', None])
def test_what_was_kept_and_is_of_no_use(content: bytes | None, cache: Path, started: list[str], tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "b")
    attar.load(path, engine="auto", device="cpu", threads=1)
    (kept,) = cache.rglob("*.json")
    if content is None:  # an engine that has gone since
        content = json.dumps({**json.loads(kept.read_bytes()), "engine": "gone"}).encode()
    kept.write_bytes(content)
    started.clear()
    attar.load(path, engine="auto", device="cpu", threads=1)
    assert started == ["onnx cpu", "openvino cpu"]
    assert json.loads(kept.read_bytes())["engine"] in ("onnx", "openvino")


def test_an_engine_that_answers_otherwise_is_left_out(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Liar:
        name, at_once = "liar", 1

        def run(self, ids: Any, mask: Any, types: Any = None) -> Mapping[str, Any]:
            return {"logits": np.full((len(ids), 2), np.nan, np.float32)}

    monkeypatch.setattr("attar.runtime.engines.openvino.OpenVINOEngine", lambda *given, **more: Liar())
    with caplog.at_level(logging.INFO, "attar"):
        model = attar.load(make_tiny_bundle(tmp_path / "b"), engine="auto", device="cpu", threads=1)
    assert model.engine.name.startswith("onnxruntime")
    assert "Left out: openvino cpu: golden inputs do not reproduce" in caplog.text


def test_no_engine_at_all(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no engine runs this bundle here: onnx cuda: .*; tensorrt cuda: "):
        attar.load(make_tiny_bundle(tmp_path / "b"), engine="auto", device="cuda")
    assert not cache.exists()


def test_measuring_takes_turns_and_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a clock that only the engines move: the slower one takes twice the time of the other."""
    path, now, turns = make_tiny_bundle(tmp_path / "b"), 0.0, list[str]()

    def at(speed: float, name: str) -> Any:
        model = attar.load(path, threads=1)

        def try_shape(rows: int, length: int) -> None:
            nonlocal now
            now += speed * rows * length
            turns.append(name)

        model.try_shape = try_shape  # type: ignore[method-assign]
        return model

    monkeypatch.setattr(auto.time, "perf_counter", lambda: now)
    monkeypatch.setattr(auto.time, "monotonic", lambda: now)
    monkeypatch.setattr(auto.time, "sleep", lambda seconds: None)
    slow, fast = auto.CANDIDATES[:2]
    times = auto.measure({slow: at(0.0002, "slow"), fast: at(0.0001, "fast")})
    # 1 and 8 texts of 16 tokens, for the bundle reads no more, then 15, 14, 13, 12 and 11: medians of 1.3 and 10.4 ms.
    assert MAX_LENGTH == 16 and times[fast] == pytest.approx((1.3 * 10.4) ** 0.5)
    assert times[slow] == pytest.approx(2 * times[fast])
    # The first turns are set-up; then it goes back and forth.
    assert turns == [*["fast"] * 2, *["slow"] * 2, *["slow"] * 2, *["fast"] * 2] * 3
    turns.clear()
    auto.measure({slow: at(1.0, "slow"), fast: at(1.0, "fast")})
    assert len(turns) == 3 * 4, "set-up and two rounds"


def test_an_older_onnxruntime_than_the_bundle_needs(tmp_path: Path) -> None:
    new = make_tiny_bundle(tmp_path / "new", requires={"onnxruntime": "99.1"})
    with pytest.raises(SettingsError, match=f"the bundle needs onnxruntime 99.1 or newer, and {ort.__version__} is in"):
        attar.load(new)
    attar.load(make_tiny_bundle(tmp_path / "old", requires={"onnxruntime": "1.19"}), threads=1)
    with pytest.raises(BundleError, match="requires 'soon', which is not a version"):
        attar.load(make_tiny_bundle(tmp_path / "odd", requires={"onnxruntime": "soon"}))


def test_only_the_engine_that_runs_is_imported(tmp_path: Path) -> None:
    code = """
import sys, attar
heavy = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "uvicorn", "starlette"}
assert not heavy & sys.modules.keys(), sys.modules.keys()
attar.load(sys.argv[1], threads=1)
assert heavy & sys.modules.keys() == {"onnxruntime"}
assert "attar.runtime.engines.tensorrt" not in sys.modules and "attar.runtime.engines.auto" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(make_tiny_bundle(tmp_path / "b"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_versions() -> None:
    assert numbers("1.24.0.dev20260101+cpu") == (1, 24, 0)
    for found, oldest in (("1.24", "1.24.0"), ("1.24.0", "1.24"), ("1.100", "1.24"), ("2.0rc1", "1.24")):
        require_version("it", "x", found, oldest)
    for found, oldest in (("1.9", "1.24"), ("1.23.9", "1.24"), ("1.24.0", "1.24.1")):
        with pytest.raises(SettingsError, match=f"it needs x {oldest} or newer, and {found} is installed"):
            require_version("it", "x", found, oldest)


def test_warm_up_computes_small_shapes_first_and_keeps_to_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attar.load(make_tiny_bundle(tmp_path / "b"), threads=1)
    seen: list[tuple[int, ...]] = []
    real = model.engine.run

    def run(ids: Any, mask: Any, types: Any = None) -> Any:
        seen.append(ids.shape)
        return real(ids, mask, types)

    monkeypatch.setattr(model.engine, "run", run)
    tokens: list[int] = []
    # At most 32 texts and 256 tokens at a time; texts of at most 16 tokens.
    assert model.warm_up(20, batch_tokens=256, observe=lambda count, seconds: tokens.append(count)) == 4
    assert seen == [(1, 8), (1, 16), (16, 16), (32, 8)] and tokens == [8, 16, 256, 256]
    seen.clear()
    assert model.warm_up(0) == 0 and seen == []


def test_the_command_line_takes_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_tiny_bundle(tmp_path / "b")
    assert main(["predict", str(path), "--engine", "openvino", "--threads", "1", "a good film"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "positive"
    for verb in (["predict", "a text"], ["serve"], ["bench"]):
        assert main([verb[0], str(path), *verb[1:], "--engine", "tf"]) == 2
        assert "engine must be one of onnx, openvino, tensorrt, auto, not 'tf'" in capsys.readouterr().err


def test_models_are_served_by_the_engine_that_was_asked_for(tmp_path: Path) -> None:
    models = Models(Meter(), Limits())
    found = shelf(make_tiny_bundle(tmp_path / "b"), models, 1, {}, Settings(engine=Choice("openvino")))
    found.load()
    models.put(*found.opened.values())
    try:
        assert models.only().model.engine.name.startswith("openvino")
    finally:
        models.close()


def test_the_same_bundle_on_two_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_tiny_bundle(tmp_path / "b")
    given = ["--engine", "openvino", "--against", str(path), "--rounds", "2", "--threads", "1", "--json"]
    assert main(["bench", str(path), *given]) == 0
    kinds = [system["kind"] for system in json.loads(capsys.readouterr().out)["systems"]]
    assert ["openvino" in kind for kind in kinds] == [True, False]
