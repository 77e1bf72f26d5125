"""Lowers the output heads: from the last states to logits, tags, spans or a vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.distill.encoder import HeadShape
from attar.export.onnx.graph import MICROSOFT, Graph

State = Mapping[str, NDArray[Any]]


def lower_head(graph: Graph, state: State, shape: HeadShape, x: str, first_only: bool) -> list[str | int]:
    """Writes the nodes of one head that reads `x` (B, T, H), of which only the first token may be there.

    Its output has the head's name; returns that output's shape.
    """
    base = f"heads.{shape.name}"
    found = _read(graph, shape.reads, x, first_only)
    if shape.dense:
        kind = {"tanh": "Tanh", "relu": "Relu"}.get(shape.activation)
        dense = _linear(graph, state, f"{base}.dense", found, f"{base}.dense", shape.reads)
        domain = {} if kind else {"domain": MICROSOFT}
        found = graph.op(kind or "Gelu", [dense], f"{base}.activation", **domain)
    if shape.linear:
        _linear(graph, state, f"{base}.classifier", found, shape.name, shape.reads)
    elif shape.unit:
        length = graph.op("ReduceL2", [found], f"{base}.length", axes=[-1], keepdims=1)
        safe = graph.op("Max", [length, graph.weight("tiny_length", np.array(1e-12, np.float32))], f"{base}.safe")
        graph.op("Div", [found, safe], shape.name)
    else:
        graph.op("Identity", [found], shape.name)
    return ["batch", "length", shape.outputs] if shape.reads == "tokens" else ["batch", shape.outputs]


def _linear(graph: Graph, state: State, module: str, x: str, name: str, reads: str) -> str:
    weight, bias = state[f"{module}.weight"], graph.weight(f"{module}.bias", state[f"{module}.bias"])
    if reads == "tokens":
        product = graph.op("MatMul", [x, graph.weight(f"{module}.weight", weight.T)], f"{name}_product")
        return graph.op("Add", [product, bias], name)
    return graph.op("Gemm", [x, graph.weight(f"{module}.weight", weight), bias], name, transB=1)


def _read(graph: Graph, reads: str, x: str, first_only: bool) -> str:
    """The states that a head reads: (B, H), or all of them (B, T, H)."""
    axis = graph.weight("axis_1", np.array([1]))
    if reads == "tokens":
        return x
    if reads == "first":
        if not first_only:
            bounds = [graph.weight("zero", np.array([0])), graph.weight("one", np.array([1])), axis]
            x = graph.once("Slice", [x, *bounds], "first_row")
        return graph.once("Squeeze", [x, axis], "first_token")
    mask = graph.once("Cast", ["attention_mask"], "mask_float", to=1)
    wide = graph.once("Unsqueeze", [mask, graph.weight("axis_2", np.array([2]))], "mask_wide")
    if reads == "mean":
        total = graph.once("ReduceSum", [graph.once("Mul", [x, wide], "masked"), axis], "masked_sum", keepdims=0)
        count = graph.once("ReduceSum", [mask, axis], "mask_sum", keepdims=1)
        safe = graph.once("Max", [count, graph.weight("tiny_count", np.array(1e-9, np.float32))], "mask_count")
        return graph.once("Div", [total, safe], "mean_state")
    hidden = graph.once("Sub", [wide, graph.weight("unit", np.array(1, np.float32))], "mask_hidden")
    far = graph.once("Mul", [hidden, graph.weight("far", np.array(1e9, np.float32))], "mask_far")
    return graph.once("ReduceMax", [graph.once("Add", [x, far], "unmasked")], "max_state", axes=[1], keepdims=0)
