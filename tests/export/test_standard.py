"""The graph in standard operators: every precision computes what PyTorch computes, in the types that were asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from attar.compress.factorize.lowrank import factorized
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export import parity
from attar.export.bundle import in_memory
from attar.export.onnx.standard import Typing, lower, quantized
from attar.export.tensorrt import ranges, typed
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import pad
from tests.export.plans import Make, maker, texts_of
from tests.models import KINDS, make_student

SOME = ("pairs", "embeddings", "multi-task")
CODES = {
    "fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "int8": TensorProto.FLOAT16,
    "fp8": TensorProto.FLOAT16,
}  # fmt: skip
BOUNDS = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.1, "fp8": 0.2}
"""Largest difference from PyTorch, relative to the largest output (at least 1): steps of 2^-23, 2^-10, 2^-7 and 2^-3,
added up over two layers of large random weights."""


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("standard"))


def distance(student: Student, model: bytes, kind: str) -> float:
    encoded = student.encode(texts_of(kind))
    found = parity.flat(in_memory(student, threads=1, model=model).outputs(encoded))
    expected = parity.flat(student.outputs(encoded))
    return max(
        float(np.abs(found[h.name] - expected[h.name]).max() / max(1.0, np.abs(expected[h.name]).max()))
        for h in student.task.heads
    )


@pytest.mark.parametrize(
    ("precision", "kind"),
    [*(("fp32", kind) for kind in KINDS), *((p, k) for p in ("fp16", "int8", "fp8") for k in SOME)],
)
def test_parity(precision: str, kind: str, make: Make) -> None:
    student = make(kind)
    first, _ = typed(student, texts_of(kind), precision)
    assert distance(student, first, kind) < BOUNDS[precision]
    assert typed(student.copy(), texts_of(kind), precision)[0] == first


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_standard_operators_in_their_types(precision: str, make: Make) -> None:
    for kind in SOME:
        model = onnx.load_from_string(typed(make(kind), texts_of(kind), precision)[0])
        assert {node.domain for node in model.graph.node} == {""} == {o.domain for o in model.opset_import}
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
        for node in model.graph.node:
            if node.op_type == "MatMul" and node.name.startswith("layers."):
                assert types[node.output[0]] == CODES[precision], node.name
            if node.op_type in ("LayerNormalization", "Softmax"):
                assert types[node.output[0]] == TensorProto.FLOAT, node.name


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_matrices_of_layers_are_quantized_once(precision: str, make: Make) -> None:
    student = make("token-classification")
    model, names = typed(student, texts_of("token-classification"), precision)
    assert len(names) == 2 * 6  # layers and matrices
    kinds = [node.op_type for node in onnx.load_from_string(model).graph.node]
    # Query, key and value read one tensor, the other three matrices of a layer have theirs; and every weight.
    assert kinds.count("QuantizeLinear") == 2 * 4
    assert kinds.count("DequantizeLinear") == 2 * (4 + 6)


def test_full_matrices_stay_in_fp16(make: Make) -> None:
    plan = QuantPlan(full=("layers.1.ffn_out",)).to_json()
    _, names = typed(replace(make("regression"), plan=plan), texts_of("regression"), "int8")
    assert len(names) == 11 and "layers.1.ffn_out.product" not in names


def test_bf16_as_the_reference_computes_it(make: Make) -> None:
    student = make("text-classification")
    model, names = typed(student, (), "bf16")
    encoded = student.encode(texts_of("text-classification")[:4])
    ids, mask = pad(encoded.ids, student.pad_id)
    feeds = {"input_ids": ids, "attention_mask": mask}
    (found,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, feeds)
    assert np.abs(found - student.outputs(encoded)["logits"]).max() < 0.05  # steps of 2^-7
    assert len(names) == 12


def test_other_architectures(tmp_path: Path) -> None:
    relu = make_student(tmp_path / "relu", hidden_act="relu")
    mpnet = make_student(tmp_path / "mpnet", "mpnet")
    ranks = {"layers.0.ffn_in": (64, 8, 32), "layers.1.query": (32, 4, 32)}
    thin = factorized(relu, {n: (torch.randn(o, r) / 5, torch.randn(r, i) / 5) for n, (o, r, i) in ranks.items()})
    tall = make_student(tmp_path / "tokens", "mpnet", kind="token-classification")
    for student, kind in ((relu, ""), (mpnet, ""), (thin, ""), (tall, "token-classification")):
        kind = kind or "text-classification"
        assert distance(student, typed(student, texts_of(kind), "fp32")[0], kind) < 1e-5
        assert distance(student, typed(student, texts_of(kind), "int8")[0], kind) < 0.1


def test_an_answer_does_not_depend_on_its_neighbours(make: Make) -> None:
    """But for the order of sums: activations have constant scales."""
    student = make("text-classification")
    texts = texts_of("text-classification")
    model = in_memory(student, threads=1, model=typed(student, texts, "int8")[0])
    together, alone = model.logits(texts), np.concatenate([model.logits([text]) for text in texts])
    assert np.abs(together - alone).max() < 0.02


@settings(max_examples=25, deadline=None, derandomize=True)
@given(arrays(np.float32, (6, 3), elements=st.floats(-50, 50, width=32)), st.sampled_from(["int8", "fp8"]))
def test_weights_round_to_the_nearest(weight: np.ndarray, precision: str) -> None:
    values, scale = quantized(weight, precision)
    assert values.dtype == {"int8": np.int8, "fp8": ml_dtypes.float8_e4m3fn}[precision]
    error = np.abs(values.astype(np.float32) * scale.astype(np.float32) - weight)
    # A scale rounded down to fp16 clips up to 127 or 448 times 2^-11 of itself; fp8 has three bits behind the first.
    step = scale.astype(np.float32)
    allowed = step * (0.5 + 127 * 2**-11) if precision == "int8" else np.abs(weight) * (2**-4 + 2**-11) + step * 2**-9
    assert (error <= allowed * 1.01).all()


def test_refusals(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="one of fp32, fp16, bf16, int8, fp8, not 'fp4'"):
        typed(make("regression"), (), "fp4")
    with pytest.raises(SettingsError, match="int8 needs the ranges of activations"):
        lower(make("regression"), Typing("int8"))
    with pytest.raises(SettingsError, match="calibration texts, and there are none"):
        ranges(make("regression"), (), "fp8")
