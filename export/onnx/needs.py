"""What a graph needs of ONNX Runtime, by what is in it."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto

PLAIN, ATTENTION, INT4, BESIDE = (1, 19), (1, 21), (1, 23), (1, 24)
"""The oldest releases that computed our graphs right, of 1.19.2, 1.20.1, 1.21.1, 1.22.1 and 1.23.0.

Before ATTENTION, MultiHeadAttention gives other numbers where it has fewer queries than keys, and says nothing.
Before INT4 there is no Cast from int4, and GatherBlockQuantized does not read bytes of two values each.
Before BESIDE weights of other files cannot be handed over from memory. What was seen: benchmarks/NOTES.md."""
NEWEST = 21
"""The last opset that PLAIN knows; INT4 knows two more."""


def needs(model: bytes) -> dict[str, Any]:
    """For the manifest: the oldest ONNX Runtime that computes the graph, its opset and its IR version."""
    proto = onnx.load_from_string(model)
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    oldest = PLAIN if opset <= NEWEST else INT4
    for node in proto.graph.node:
        if node.op_type == "MultiHeadAttention":
            oldest = max(oldest, ATTENTION)
        if node.op_type == "GatherBlockQuantized":
            oldest = max(oldest, INT4)
    if any(weight.data_type == TensorProto.INT4 for weight in proto.graph.initializer):
        oldest = max(oldest, INT4)
    if any(weight.data_location == TensorProto.EXTERNAL for weight in proto.graph.initializer):
        oldest = max(oldest, BESIDE)
    return {"onnxruntime": ".".join(map(str, oldest)), "opset": opset, "ir": proto.ir_version}
