"""OpenVINO as an engine: what it computes right, what it refuses, and what it keeps to itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attar
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students import recurrent
from attar.export.bundle import write
from attar.export.onnx import to_onnx
from attar.runtime.engines import openvino
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.engines.openvino import OpenVINOEngine
from attar.runtime.errors import BundleError, MissingExtraError, SettingsError
from attar.runtime.tokenizer import pad
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_student

ROWS = [[2, 5, 6, 7, 3], [2, 9, 3], [2, *range(10, 30), 3]]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("openvino") / "bert")


def quantized(student: Student, **plan: Any) -> bytes:
    return to_onnx(replace(student, plan=QuantPlan(**plan).to_json()))


@pytest.mark.parametrize("kind", ["text-classification", "pairs", "token-classification"])
def test_outputs_are_those_of_onnx_runtime(kind: str, tmp_path: Path) -> None:
    model = to_onnx(make_student(tmp_path / "m", kind=kind, heads=2))
    engine = OpenVINOEngine(model, threads=1)
    assert engine.name.startswith("openvino 2026.") and engine.name.endswith("(CPU, fp32)")
    ids, mask = pad(ROWS, 0)
    types = mask * (np.arange(ids.shape[1]) > 1) if kind == "pairs" else None
    for given in (types, None):
        compare(engine.run(ids, mask, given), OnnxEngine(model, threads=1).run(ids, mask, given), mask, 1e-5)


def compare(found: Mapping[str, Any], wanted: Mapping[str, Any], mask: Any, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        seen = mask.astype(bool) if value.ndim == 3 else slice(None)
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name][seen], value[seen], rtol=0, atol=tolerance)


def test_outputs_stay_when_the_next_call_comes(student: Student) -> None:
    engine = OpenVINOEngine(to_onnx(student), threads=1)
    first = engine.run(*pad(ROWS[:1], 0))["logits"]
    kept = first.copy()
    engine.run(*pad(ROWS[2:], 0))
    assert (first == kept).all()


def test_what_it_does_not_know_is_refused_by_name(student: Student) -> None:
    with pytest.raises(SettingsError, match=r"does not know .*MatMulIntegerToFloat.*: load the bundle with engine="):
        OpenVINOEngine(quantized(student), threads=1)


def test_weights_that_would_kill_the_process_are_refused(student: Student) -> None:
    with pytest.raises(SettingsError, match="does not survive int4 weights: load the bundle with engine="):
        OpenVINOEngine(quantized(student, kind="weights", bits=4), threads=1)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_students_are_refused(
    cell: Any, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without their name being known the golden inputs find them out, in a padded batch."""
    made = recurrent.apply(student, recurrent.Settings(cell, width=30, hidden=37, layers=2), None)
    for value in made.encoder.parameters():  # as large as training makes them
        value.data.mul_(4)
    write(made, tmp_path / "b", name="r")
    with pytest.raises(SettingsError, match="computes recurrent layers wrongly in padded batches"):
        attar.load(tmp_path / "b", engine="openvino", threads=1)
    monkeypatch.setattr(openvino, "WRONG", {})
    with pytest.raises(BundleError, match="gives golden inputs other scores in a padded batch than alone"):
        attar.load(tmp_path / "b", engine="openvino", threads=1)


def test_a_bundle_answers_in_either_precision(tmp_path: Path) -> None:
    path = make_tiny_bundle(tmp_path / "b")
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
        model = attar.load(path, engine="openvino", threads=1, precision=precision)
        assert precision in model.engine.name
        assert [answer.label for answer in model(["a good film", "awful"])] == ["positive", "negative"]


def has_bf16() -> bool:
    return "BF16" in openvino.import_quietly().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_bf16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch, student: Student) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino.import_quietly(), "Core", Core)
    with pytest.raises(SettingsError, match="this processor has no bf16"):
        OpenVINOEngine(to_onnx(student), threads=1, precision="bf16")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "openvino", "precision": "fp16"}, "precision must be one of fp32, bf16, not 'fp16'"),
        ({"engine": "openvino", "threads": 0}, "threads must be at least 1"),
        ({"engine": "openvino", "device": "cuda"}, "device of openvino must be one of cpu, not 'cuda'"),
        ({"engine": "onnx", "precision": "bf16"}, "precision is a choice of openvino alone, not of onnx"),
        ({"engine": "auto", "precision": "bf16"}, "precision is a choice of openvino alone, not of auto"),
    ],
)
def test_what_it_does_not_offer(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        attar.load(make_tiny_bundle(tmp_path / "b"), **given)


def test_a_release_that_was_never_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openvino.import_quietly(), "__version__", "2025.1.0-17-abc")
    with pytest.raises(SettingsError, match=r"attar needs openvino 2026.4 or newer, and 2025.1.0 is installed"):
        attar.load(make_tiny_bundle(tmp_path / "b"), engine="openvino")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"attar\[openvino\]"):
        OpenVINOEngine(b"")
    assert sys.modules.get(openvino.TELEMETRY, "nothing") is not None


def test_no_use_is_reported() -> None:
    """Neither the package that sends, nor anything that it would need, is loaded; afterwards it can be imported."""
    code = """
import importlib.util, socket, sys
def refuse(*given, **more):
    raise AssertionError("attar went to the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from attar.cli import doctor
checks = doctor.check_engines()
assert any(check.name == "openvino CPU" and check.works for check in checks), checks
assert "openvino_telemetry" not in sys.modules
if importlib.util.find_spec("openvino_telemetry"):
    import openvino_telemetry
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
