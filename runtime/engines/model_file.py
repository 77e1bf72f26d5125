"""What an ONNX file says of other files, found before any engine parses it, and what an engine's refusal of it means.

A file may keep weights in other files and name them by any path. Here protobuf's wire format is walked just far enough
to read those names (field numbers from onnx.proto3; all else is skipped), so that the runtime needs no onnx package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attar.runtime.errors import BundleError

INSIDE: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto",
        22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}  # fmt: skip
"""Every way from the model to a tensor: by message the fields to walk into, and what they hold."""

_REMEDY = "upgrade onnxruntime, or export the bundle again for this version"
_REFUSALS = (
    (r"Opset (\d+) is under development.*?for domain (\S+) is till opset (\d+)", "it needs opset {0} of {1}, {3} knows "
     "opsets up to {2}"),
    (r"Unsupported model IR version: (\d+), max supported IR version: (\d+)", "it has IR version {0}, {2} reads up to "
     "{1}"),
    (r"No Op registered for (\S+) with domain_version of (\d+)", "its operator {0!r} is not in opset {1} as {2} knows "
     "it"),
    (r"Fatal error: (\S+?):(\S+?)\(-?\d+\) is not a registered", "its operator {1!r} of the domain {0!r} is unknown to "
     "{2}"),
    (r"Could not find an implementation for (\S+?)\((\d+)\)", "its operator {0!r} of version {1} does not run in {2}"),
)  # fmt: skip
"""What ONNX Runtime says of a model that it does not know, and the same in plain words."""


def external_files(model: bytes) -> set[str]:
    """The names of all files that the model wants weights from, as they are written; `BundleError` for no ONNX file."""
    found: set[str] = set()
    left = [("ModelProto", memoryview(model))]
    try:
        while left:
            kind, data = left.pop()
            if kind == "StringStringEntryProto":
                entry = list(_fields(data))
                if any(number == 1 and bytes(value) == b"location" for number, value in entry):
                    found.update([bytes(value).decode() for number, value in entry if number == 2] or [""])
            else:
                left += [(INSIDE[kind][number], part) for number, part in _fields(data) if number in INSIDE[kind]]
    except (IndexError, ValueError) as error:
        raise BundleError("model.onnx is not an ONNX file; copy the bundle again, or export it again") from error
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field of a message that has a length; others are skipped."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        if tag & 7 == 2:
            length, place = _varint(data, place)
            if length > len(data) - place:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[place : place + length]
            place += length
        elif tag & 7 == 0:
            place = _varint(data, place)[1]
        elif tag & 7 in (1, 5):
            place += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError("groups are not part of ONNX")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def refusal(error: Exception, engine: str) -> str:
    """What is wrong with a model that the engine, say `ONNX Runtime 1.32.0`, refused to load, and the remedy."""
    for pattern, words in _REFUSALS:
        match = re.search(pattern, str(error), re.DOTALL)
        if match:
            return f"{engine} cannot load model.onnx: {words.format(*match.groups(), engine)}; {_REMEDY}"
    return f"{engine} cannot load model.onnx: {error}"
