"""Answers as typed tensors, for protocols that know no objects: one column a field, and all of an answer as JSON."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attar.runtime.errors import DataError
from attar.runtime.server.exchange import as_json
from attar.runtime.tasks.base import Task, jsonable
from attar.runtime.tokenizer import well_formed

_NUMPY = {"BOOL": "?", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}


@dataclass(frozen=True)
class Column:
    """One output: its datatype in the Open Inference Protocol, how to read it of an answer, and values a text.

    `width` 0: a single value a text, shape (N,); else shape (N, width).
    """

    name: str
    datatype: str
    read: Callable[[Any], Any]
    width: int = 0

    def shape(self, rows: int) -> list[int]:
        return [rows, self.width] if self.width else [rows]


def columns(task: Task) -> list[Column]:
    """The outputs of a task. `answer` has everything as JSON, which is all there is for lists of entities."""
    return [*_typed(task), Column("answer", "BYTES", lambda a: as_json(jsonable(a)).decode())]


def _typed(task: Any) -> list[Column]:
    found: list[Column] = []
    if task.kind == "text-classification":
        found += [] if task.multi_label else [_field("label", "BYTES"), _field("score", "FP32")]
        if not task.top_k:  # else each text has scores of other labels
            found.append(Column("scores", "FP32", lambda a: list(a.scores.values()), len(task.labels)))
    elif task.kind == "regression":
        found.append(_field("value", "FP64"))
    elif task.kind == "embeddings":
        width = task.truncate or task.dimensions
        found.append(Column("embedding", "FP32", lambda a: a.values, width))
    elif task.kind == "question-answering":
        found += [_field("text", "BYTES"), _field("score", "FP32"), _field("start", "INT64"), _field("end", "INT64")]
    elif task.kind == "multi-task":
        return [_within(name, column) for name, part in task.parts for column in _typed(part)]
    return [*found, _field("truncated", "BOOL")] if found else []


def _field(name: str, datatype: str) -> Column:
    return Column(name, datatype, lambda a: getattr(a, name))


def _within(part: str, column: Column) -> Column:
    return Column(f"{part}_{column.name}", column.datatype, lambda a: column.read(a[part]), column.width)


def as_list(column: Column, answers: Sequence[Any]) -> list[Any]:
    """The values in row order, flat."""
    values = [column.read(a) for a in answers]
    if not column.width:
        return values
    return [float(v) for row in values for v in row]


def as_bytes(column: Column, answers: Sequence[Any]) -> bytes:
    """The values as Triton's binary tensor data: little-endian, strings with four bytes of length before each."""
    values = [column.read(a) for a in answers]
    if column.datatype != "BYTES":
        return np.asarray(values, dtype=_NUMPY[column.datatype]).tobytes()
    encoded = [well_formed(v).encode() for v in values]
    return b"".join(struct.pack("<I", len(v)) + v for v in encoded)


def strings(data: bytes) -> list[str]:
    """The strings of binary tensor data; `DataError` where lengths do not fit or it is not UTF-8."""
    found, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data) or end > len(data):
            raise DataError("ends within a string: each needs its length, four little-endian bytes, before it")
        try:
            found.append(data[at + 4 : end].decode())
        except UnicodeDecodeError as error:
            raise DataError("is not UTF-8") from error
        at = end
    return found
