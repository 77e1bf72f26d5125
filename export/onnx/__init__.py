"""From `Student` to an ONNX model whose nodes are written for the engine that runs them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from attar.distill.student import Student
from attar.export.onnx.graph import MICROSOFT, OPSET

__all__ = ["MICROSOFT", "OPSET", "to_onnx"]

LOWERINGS: Mapping[str, str] = {
    "encoder": "attar.export.onnx.lower",
    "static": "attar.export.onnx.static",
    "tfidf": "attar.export.onnx.tfidf",
    "recurrent": "attar.export.onnx.recurrent",
    "convolutional": "attar.export.onnx.convolutional",
}
"""The module that writes each kind of network; its `lower` takes a student."""


def to_onnx(student: Student) -> bytes:
    """The serialized model: `input_ids`, `attention_mask` (batch, length) -> every head.

    An output is called as its head: (batch, outputs), or (batch, length, outputs) where it reads tokens.
    """
    module = importlib.import_module(LOWERINGS[student.encoder.shape.kind])
    return bytes(module.lower(student).SerializeToString(deterministic=True))
