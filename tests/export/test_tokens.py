"""Padding costs no products: all but attention works on the tokens that are there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from attar.distill.encoder import MATRICES
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.runtime.tokenizer import pad
from tests.export.plans import planned
from tests.models import inputs, make_student


@pytest.mark.parametrize("kind", ["text-classification", "pairs", "token-classification"])
@pytest.mark.parametrize("scheme", ["fp32", "per_token", "static"])
def test_products_have_a_row_a_token(scheme: str, kind: str, tmp_path: Path) -> None:
    student = planned(make_student(tmp_path / "m", kind=kind), scheme, kind)
    encoded = student.encode(inputs(kind, ("a dull film", "superb", "film " * 20)))
    tokens = sum(map(len, encoded.ids))
    ids, mask = pad(encoded.ids, student.pad_id, 30)
    assert tokens < ids.size
    model = onnx.load_from_string(to_onnx(student))
    names = ["embeddings", "layers.0.result", *(f"layers.0.{name}" for name in MATRICES)]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": ids, "attention_mask": mask}
    if encoded.types is not None:
        feeds["token_type_ids"] = pad(encoded.types, 0, 30)[0]
    assert {name: len(found) for name, found in zip(names, session.run(names, feeds), strict=True)} == {
        name: tokens for name in names
    }


@pytest.mark.parametrize("kind", ["text-classification", "token-classification", "embeddings"])
def test_a_row_without_any_token(kind: str, tmp_path: Path) -> None:
    """An empty text to a tokenizer that puts nothing around a text."""
    student = make_student(tmp_path / "m", kind=kind)
    bare = json.dumps(json.loads(student.tokenizer) | {"post_processor": None}).encode()
    model = in_memory(replace(student, tokenizer=bare), threads=1)
    head = student.task.heads[0].name

    def outputs(texts: list[str]) -> list[np.ndarray]:
        return list(model.outputs(model.task.encode(model.tokenizer, texts))[head])

    (alone,) = outputs([""])
    assert np.isfinite(alone).all()
    for others in (["a dull film"], ["superb", "film"]):
        assert np.array_equal(outputs(["", *others])[0], alone)
        assert np.array_equal(outputs([*others, ""])[-1], alone)
