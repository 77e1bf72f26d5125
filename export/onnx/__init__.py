"""From `Student` to an ONNX model whose nodes are written for the engine that runs them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import onnx

from attar.distill.student import Student
from attar.export.onnx.files import LIMIT, files_of
from attar.export.onnx.graph import MICROSOFT, OPSET

__all__ = ["MICROSOFT", "OPSET", "to_files", "to_onnx"]

LOWERINGS: Mapping[str, str] = {
    "encoder": "attar.export.onnx.lower",
    "static": "attar.export.onnx.static",
    "tfidf": "attar.export.onnx.tfidf",
    "recurrent": "attar.export.onnx.recurrent",
    "convolutional": "attar.export.onnx.convolutional",
    "modern": "attar.export.onnx.modern",
    "plain": "attar.export.onnx.plain",
}
"""The module that writes each kind of network; its `lower` takes a student."""


def to_onnx(student: Student) -> bytes:
    """The serialized model: `input_ids`, `attention_mask` (batch, length) -> every head.

    An output is called as its head: (batch, outputs), or (batch, length, outputs) where it reads tokens.
    """
    return bytes(_lowered(student).SerializeToString(deterministic=True))


def to_files(student: Student, over: int = LIMIT) -> dict[str, bytes]:
    """The same as files of a bundle: weights of more than `over` bytes lie beside the graph, in files of their own."""
    return files_of(_lowered(student), over)


def _lowered(student: Student) -> onnx.ModelProto:
    model: onnx.ModelProto = importlib.import_module(LOWERINGS[student.encoder.shape.kind]).lower(student)
    return model
