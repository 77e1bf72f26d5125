"""Exported bytes: the same every time, and equal to PyTorch, for every kind of task."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from attar.compress.quantize.plan import QuantPlan
from attar.distill.encoder import MATRICES
from attar.distill.student import Student
from attar.export import bundle as writer
from attar.export import parity
from attar.export.departure import departure
from attar.export.onnx import to_files, to_onnx
from attar.export.onnx.plain import export_plain
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.errors import ParityError
from attar.runtime.tokenizer import pad
from tests.export.plans import SCHEMES, Make, maker, planned, texts_of
from tests.models import EDGE_TEXTS, KINDS, add_pooling, corpus, make_checkpoint, make_student, sentences

TEXTS = sentences(40, seed=11).texts
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def student(make: Make) -> Student:
    return make("text-classification")


@EVERY
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_same_bytes_every_time(scheme: str, kind: str, make: Make) -> None:
    first, second = (to_onnx(planned(make(kind).copy(), scheme, kind)) for _ in range(2))
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()
    model = onnx.load_from_string(first)
    onnx.checker.check_model(model, full_check=True)
    read = {name for node in model.graph.node for name in node.input}
    assert {w.name for w in model.graph.initializer} <= read, "weights that nothing reads"
    assert [o.name for o in model.graph.output] == [h.name for h in make(kind).task.heads]
    assert ("token_type_ids" in {i.name for i in model.graph.input}) == make(kind).task.pairs


@EVERY
@pytest.mark.parametrize("scheme", SCHEMES)
def test_parity_on_edge_texts(scheme: str, kind: str, make: Make) -> None:
    texts = texts_of(kind)
    found = parity.check(planned(make(kind), scheme, kind), texts)
    assert found.max_abs < 1e-4 and found.mean_abs <= found.max_abs
    # A number has no bound of its own, as probabilities and unit vectors have.
    assert found.scheme_max_probability < (1e-5 if scheme == "fp32" else 0.2 if kind == "regression" else 0.05)
    assert found.texts == len(texts)
    assert {"length 1", "longest", "truncated"} <= set(found.checks)
    json.dumps(found.to_json())


@EVERY
def test_the_runtime_decodes_what_pytorch_says(kind: str, make: Make) -> None:
    """The same typed answers from exported bytes as from PyTorch, but for rounding."""
    student, texts = make(kind), texts_of(kind)
    encoded = student.encode(texts)
    model = writer.in_memory(student, threads=1)
    found, expected = parity.flat(model.outputs(encoded)), parity.flat(student.outputs(encoded))
    assert all(np.abs(found[h.name] - expected[h.name]).max() < 1e-5 for h in student.task.heads)
    assert len(model.answer(texts)) == len(texts)


@pytest.mark.parametrize("kind", ["text-classification", "pairs", "multi-task"])
@pytest.mark.parametrize("family", ["distilbert", "roberta", "electra"])
def test_parity_of_other_families(family: str, kind: str, tmp_path: Path) -> None:
    parity.check(make_student(tmp_path / family, family, kind=kind), texts_of(kind))


@pytest.mark.parametrize("mode", ["cls_token", "max_tokens", "mean_tokens"])
@pytest.mark.parametrize("normalise", [True, False])
def test_parity_of_poolings(mode: str, normalise: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", kind="embeddings")
    add_pooling(folder, 32, mode, normalise)
    parity.check(Student.load(folder), texts_of("embeddings"))


def test_parity_of_relu_layers(tmp_path: Path) -> None:
    parity.check(make_student(tmp_path / "relu", hidden_act="relu"), TEXTS)


SABOTAGED = {
    "layers.0.query.weight": r"The first inner value that departs is layers\.0\.query \(MatMul\), .* embeddings \(",
    "layers.0.value.bias": r"is layers\.0\.output \(MatMul\), .* after layers\.0\.value \(MatMul\), which agrees",
    "layers.1.ffn_out.bias": r"is layers\.1\.result \(LayerNormalization\), .* layers\.1\.ffn_out \(MatMul\)",
    "words.weight": r"is words \(Gather\), by .*, after the inputs$",
    "heads.logits.classifier.bias": r"at most 0.0001",
}
"""By the weight that is changed: where the message says that it begins. The bias of a product is added after it."""


@pytest.mark.parametrize("name", SABOTAGED)
def test_a_sabotaged_graph_is_found(name: str, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    other = student.copy()
    with torch.no_grad():
        other.encoder.state_dict()[name].mul_(1.1).add_(0.05)
    monkeypatch.setattr(parity, "to_files", lambda _: to_files(other))
    with pytest.raises(ParityError, match=r"^batch 1: the exported graph departs from PyTorch by \d") as caught:
        parity.check(student, TEXTS)
    assert re.search(SABOTAGED[name], str(caught.value)), str(caught.value)


@EVERY
def test_no_inner_value_departs(kind: str, make: Make) -> None:
    given = make(kind)
    assert departure(given, to_files(given), given.encode(texts_of(kind)), 1e-5) == ""


def test_a_graph_of_nan_is_found(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    other = student.copy()
    with torch.no_grad():
        other.encoder.heads["logits"].classifier.bias.fill_(float("nan"))
    monkeypatch.setattr(parity, "to_files", lambda _: to_files(other))
    with pytest.raises(ParityError, match="by nan"):
        parity.check(student, TEXTS)


def test_int8_is_smaller(tmp_path: Path) -> None:
    wide = make_student(tmp_path / "wide", hidden=120, ffn=200, heads=5)
    full, words, layers_only = (
        len(to_onnx(s))
        for s in (
            wide,
            replace(wide, plan=QuantPlan().to_json()),
            replace(wide, plan=QuantPlan(words="fp32").to_json()),
        )
    )
    assert words < layers_only < full
    # Of four bytes a word entry one is left, and a scale a row.
    vocab, hidden = wide.encoder.words.weight.shape
    assert layers_only - words == pytest.approx(vocab * (3 * hidden - 4), rel=0.05)


def test_named_matrices_stay_in_fp32(student: Student) -> None:
    every = [
        f"layers.{i}.{name}" for i, layer in enumerate(student.transformer.layers) for name in MATRICES
        if hasattr(layer, name)
    ]  # fmt: skip

    def distance(full: tuple[str, ...]) -> tuple[float, set[str]]:
        plan = QuantPlan(words="fp32", full=full)
        assert QuantPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
        given = replace(student, plan=plan.to_json())
        encoded = student.encode(TEXTS)
        error = np.abs(writer.in_memory(given).outputs(encoded)["logits"] - student.outputs(encoded)["logits"]).max()
        return float(error), {w.name for w in onnx.load_from_string(to_onnx(given)).graph.initializer}

    some, names = distance(("layers.0.ffn_in",))
    assert "layers.0.ffn_in.weight" in names and "layers.0.ffn_in.int8" not in names and "layers.0.query.int8" in names
    rounded, exact = distance(())[0], distance(tuple(every))[0]
    assert exact < 1e-5 < min(some, rounded)


@pytest.mark.parametrize("kind", ["text-classification", "question-answering", "multi-task"])
def test_the_plain_export_agrees(kind: str, make: Make, tmp_path: Path) -> None:
    student = make(kind)
    engine = OnnxEngine(export_plain(make_checkpoint(tmp_path / "m", kind=kind), student.task), threads=1)
    texts = corpus(kind, 7).texts
    for chosen in (texts[:1], texts, texts_of(kind)[-len(EDGE_TEXTS) :]):
        encoded = student.encode(chosen)
        types = None if encoded.types is None else pad(encoded.types, 0)[0]
        found = engine.run(*pad(encoded.ids, student.pad_id), types)
        expected = student.outputs(encoded)
        for head in student.task.heads:
            for row, (a, b) in enumerate(zip(found[head.name], expected[head.name], strict=True)):
                mine = a[: len(encoded.ids[row])] if head.reads == "tokens" else a
                assert np.abs(mine - b).max() < 1e-5
