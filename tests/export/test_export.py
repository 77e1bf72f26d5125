"""Exported bytes: the same every time, equal to PyTorch, blind to neighbours and padding, and proved when written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attar
from attar.compress.quantize.int8 import calibrate, shared
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export import bundle as writer
from attar.export import parity
from attar.export.bundle import Evidence, in_memory, write
from attar.export.onnx import to_onnx
from attar.export.onnx.plain import export_plain
from attar.runtime.bundle import Bundle
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.errors import GateError, ParityError
from attar.runtime.tokenizer import pad
from tests.models import EDGE_TEXTS, MAX_LENGTH, NOISE, make_checkpoint, make_student, sentences

TEXTS = sentences(40, seed=11).texts
SCHEMES = ("fp32", "per_token", "static", "7 bits")


def planned(student: Student, scheme: str) -> Student:
    plans = {
        "per_token": QuantPlan(),
        "static": QuantPlan(shared(calibrate(student, TEXTS))),
        "7 bits": QuantPlan(bits=7),
    }
    return replace(student, plan=plans[scheme].to_json()) if scheme in plans else student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("export") / "bert", layers=2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """Wide enough for the engine's vectorised kernels and their remainders."""
    return make_student(tmp_path_factory.mktemp("export") / "wide", hidden=120, ffn=200, heads=5, layers=2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_bytes_every_time(scheme: str, student: Student) -> None:
    first, second = (to_onnx(planned(student.copy(), scheme)) for _ in range(2))
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()
    onnx.checker.check_model(onnx.load_from_string(first), full_check=True)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_parity_on_edge_texts(scheme: str, student: Student) -> None:
    found = parity.check(planned(student, scheme), [*TEXTS, *EDGE_TEXTS])
    assert found.max_abs < 1e-4 and found.mean_abs <= found.max_abs
    assert found.scheme_max_probability < (1e-5 if scheme == "fp32" else 0.05)
    assert found.texts == len(TEXTS) + len(EDGE_TEXTS)
    assert {"length 1", "longest", "truncated"} <= set(found.checks)
    json.dumps(found.to_json())


@pytest.mark.parametrize("family", ["distilbert", "roberta", "electra"])
def test_parity_of_other_families(family: str, tmp_path: Path) -> None:
    parity.check(make_student(tmp_path / family, family), [*TEXTS, *EDGE_TEXTS])


def test_parity_of_relu_layers(tmp_path: Path) -> None:
    parity.check(make_student(tmp_path / "relu", hidden_act="relu"), TEXTS)


@pytest.mark.parametrize(
    "name", ["layers.0.query.weight", "layers.1.ffn_out.bias", "words.weight", "heads.logits.classifier.bias"]
)
def test_a_sabotaged_graph_is_found(name: str, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    other = student.copy()
    with torch.no_grad():
        other.encoder.state_dict()[name].mul_(1.1).add_(0.05)
    monkeypatch.setattr(writer, "to_onnx", lambda _: to_onnx(other))
    with pytest.raises(ParityError, match=r"^batch 1: the exported graph departs from PyTorch by \d"):
        parity.check(student, TEXTS)


def test_a_graph_of_nan_is_found(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    other = student.copy()
    with torch.no_grad():
        other.encoder.heads["logits"].classifier.bias.fill_(float("nan"))
    monkeypatch.setattr(writer, "to_onnx", lambda _: to_onnx(other))
    with pytest.raises(ParityError, match="by nan"):
        parity.check(student, TEXTS)


def test_int8_is_smaller(wide: Student) -> None:
    full, words, layers_only = (
        len(to_onnx(s))
        for s in (
            wide,
            replace(wide, plan=QuantPlan().to_json()),
            replace(wide, plan=QuantPlan(words=False).to_json()),
        )
    )
    assert words < layers_only < full
    # Of four bytes a word entry one is left, and a scale a row.
    vocab, hidden = wide.encoder.words.weight.shape
    assert layers_only - words == pytest.approx(vocab * (3 * hidden - 4), rel=0.05)


def test_the_plain_export_agrees(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "bert")
    student = Student.load(source)
    engine = OnnxEngine(export_plain(source, student.task), threads=1)
    for texts in (TEXTS[:1], TEXTS[:7], ("a " * 200, "a")):
        found = engine.run(*pad(student.encode(texts).ids, student.pad_id))["logits"]
        assert np.abs(found - student.logits(texts).numpy()).max() < 1e-5


# --- your answer never depends on your neighbours -----------------------------------------------------------------

some_text = st.one_of(
    st.lists(st.sampled_from((*NOISE, "dull", "superb", "film")), max_size=60).map(" ".join),
    st.text(max_size=30),
    st.sampled_from(EDGE_TEXTS),
)


@pytest.mark.parametrize("size", ["student", "wide"])
@pytest.mark.parametrize("scheme", ["fp32", "per_token", "static"])
def test_neighbours_and_padding_change_no_bit(scheme: str, size: str, request: pytest.FixtureRequest) -> None:
    model = in_memory(planned(request.getfixturevalue(size), scheme), threads=1)

    def alone(text: str) -> np.ndarray[Any, Any]:
        return model.engine.run(*pad(model.tokenizer.encode([text]).ids, model.tokenizer.pad_id))["logits"][0]

    @given(st.lists(some_text, min_size=1, max_size=12), st.integers(1, MAX_LENGTH), st.integers(0, 11))
    def check(texts: list[str], length: int, mine: int) -> None:
        rows, pad_id = model.tokenizer.encode(texts).ids, model.tokenizer.pad_id
        mine %= len(texts)
        expected = alone(texts[mine])
        assert np.isfinite(expected).all()
        padded = model.engine.run(*pad([rows[mine]], pad_id, length))["logits"]
        assert np.array_equal(padded[0], expected)
        together = model.engine.run(*pad(rows, pad_id, length))["logits"]
        assert np.array_equal(together[mine], expected)
        assert np.array_equal(model.logits(texts)[mine], expected)
        assert model(texts)[mine] == model(texts[mine])

    check()


@pytest.mark.parametrize("scheme", ["fp32", "per_token", "static"])
def test_every_padding_gives_the_same_bits(scheme: str, wide: Student) -> None:
    model = in_memory(planned(wide, scheme), threads=2)
    for text in ("", "a dull film", " ".join(NOISE)):
        rows = model.tokenizer.encode([text]).ids
        expected = model.engine.run(*pad(rows, 0))["logits"]
        for length in range(len(rows[0]), MAX_LENGTH + 1):
            assert np.array_equal(model.engine.run(*pad(rows, 0, length))["logits"], expected), length
        for count in range(2, 20):
            assert np.array_equal(model.engine.run(*pad(rows * count, 0))["logits"], np.repeat(expected, count, 0)), (
                count
            )


# --- bundles ------------------------------------------------------------------------------------------------------

FAILED: dict[str, Any] = {
    "verdict": "fail", "difference": -9.0, "lower_bound": -11.0, "margin": 2.0, "confidence": 0.95,
    "n": 500, "teacher": 92.0, "student": 83.0, "needed": None,
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
def test_written_bundles_read_back(scheme: str, student: Student, tmp_path: Path) -> None:
    chosen = planned(student, scheme).with_step("some.step", {"a": (1,)})
    gate = FAILED | {"verdict": "pass", "difference": 0.0, "lower_bound": -0.5, "student": 92.0}
    evidence = Evidence(gate, "PASS: certainly", {"dev accuracy": "92 %"})
    bundle = write(chosen, tmp_path / "b", name="tiny", evidence=evidence)
    assert bundle == Bundle.read(tmp_path / "b")
    manifest = bundle.manifest
    assert (manifest.name, manifest.scheme, manifest.gate) == ("tiny", writer.scheme(chosen), gate)
    assert manifest.lineage == ({"use": "some.step", "settings": {"a": [1]}},)
    assert ("x86" in manifest.requires) == (scheme in {"per_token", "static"})
    card = bundle.contents["README.md"].decode()
    assert all(words in card for words in ("# tiny", "PASS: certainly", "dev accuracy: 92 %", "`some.step`", "layer 2"))
    texts = [*TEXTS, *EDGE_TEXTS]
    assert np.array_equal(attar.load(tmp_path / "b").logits(texts), in_memory(chosen).logits(texts))
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("verdict", ["fail", "not enough data"])
def test_a_failed_gate_writes_nothing(verdict: str, student: Student, tmp_path: Path) -> None:
    evidence = Evidence(FAILED | {"verdict": verdict}, "FAIL: student 83 %")
    with pytest.raises(GateError, match=r"no bundle was written: FAIL: student 83 %.*--allow-failed-gate"):
        write(student, tmp_path / "b", name="tiny", evidence=evidence)
    assert list(tmp_path.iterdir()) == []
    found = write(student, tmp_path / "b", name="tiny", evidence=evidence, allow_failed_gate=True)
    assert found.manifest.gate is not None and found.manifest.gate["verdict"] == verdict
    assert "FAIL: student 83 %" in found.contents["README.md"].decode()


def test_an_interrupted_write_leaves_the_old_bundle(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(student, tmp_path / "b", name="old")
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "golden.json":
            raise OSError("no space left on device")
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for out in (tmp_path / "b", tmp_path / "other"):
            with pytest.raises(OSError, match="no space left"):
                write(student, out, name="new")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert Bundle.read(tmp_path / "b") == old
    assert write(student, tmp_path / "b", name="new").manifest.name == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
