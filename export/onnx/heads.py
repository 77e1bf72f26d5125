"""Lowers the output heads: from the last states to logits, tags, spans or a vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.distill.heads import HeadShape
from attar.export.onnx.graph import MICROSOFT, Graph, output_of

State = Mapping[str, NDArray[Any]]


def lower_head(
    graph: Graph, state: State, shape: HeadShape, x: str, first_only: bool, eps: float = 1e-5
) -> list[str | int]:
    """Writes the nodes of one head that reads `x` (B, T, H), of which only the first token may be there.

    `eps` is that of the norm behind its hidden layer, where it has one. Returns the shape of what it gives, the tensor
    `output_of` its name.
    """
    base, output = f"heads.{shape.name}", output_of(shape.name)
    found = _read(graph, shape.reads, x, first_only, _width(state, shape))
    if shape.dense:
        kind = {"tanh": "Tanh", "relu": "Relu"}.get(shape.activation)
        dense = _linear(graph, state, f"{base}.dense", found, f"{base}.dense", shape.reads)
        name = f"{base}.activation"
        found = graph.op(kind, [dense], name) if kind else graph.gelu(dense, name)
    if f"{base}.norm.weight" in state:
        scale = graph.weight(f"{base}.norm.weight", state[f"{base}.norm.weight"])
        found = graph.op("LayerNormalization", [found, scale], f"{base}.norm", axis=-1, epsilon=eps)
    if shape.linear:
        name = f"{base}.classifier" if shape.unit else output
        found = _linear(graph, state, f"{base}.classifier", found, name, shape.reads)
    if shape.unit:
        length = graph.op("ReduceL2", [found, graph.weight("last_axis", np.array([-1]))], f"{base}.length", keepdims=1)
        safe = graph.op("Max", [length, graph.weight("tiny_length", np.array(1e-12, np.float32))], f"{base}.safe")
        graph.op("Div", [found, safe], output)
    elif not shape.linear:
        graph.op("Identity", [found], output)
    return ["batch", "length", shape.outputs] if shape.reads == "tokens" else ["batch", shape.outputs]


def _width(state: State, shape: HeadShape) -> int:
    """The width of the states that a head reads."""
    reader = "dense" if shape.dense else "classifier"
    return state[f"heads.{shape.name}.{reader}.weight"].shape[1] if shape.dense or shape.linear else shape.outputs


def _linear(graph: Graph, state: State, module: str, x: str, name: str, reads: str) -> str:
    weight, bias = state[f"{module}.weight"], graph.weight(f"{module}.bias", state[f"{module}.bias"])
    if reads == "tokens":
        product = graph.op("MatMul", [x, graph.weight(f"{module}.weight", weight.T)], f"{name}_product")
        return graph.op("Add", [product, bias], name)
    return graph.op("Gemm", [x, graph.weight(f"{module}.weight", weight), bias], name, transB=1)


def _read(graph: Graph, reads: str, x: str, first_only: bool, width: int) -> str:
    """The states that a head reads: (B, H), or all of them (B, T, H); `width` is H."""
    if reads == "tokens":
        return x
    if reads == "first":
        x = x if first_only else graph.once("Slice", [x, *_first(graph)], "first_row")
        return graph.once("Squeeze", [x, _first(graph)[2]], "first_token")
    if reads == "mean":
        return _mean(graph, x, width)
    hidden = graph.once("Sub", [wide_mask(graph), graph.weight("unit", np.array(1, np.float32))], "mask_hidden")
    far = graph.once("Mul", [hidden, graph.weight("far", np.array(1e9, np.float32))], "mask_far")
    unmasked = graph.once("Add", [x, far], "unmasked")
    return graph.once("ReduceMax", [unmasked, graph.weight("axis_1", np.array([1]))], "max_state", keepdims=0)


def wide_mask(graph: Graph) -> str:
    """1 where there is a token and 0 where there is none: (B, T, 1) float."""
    mask = graph.once("Cast", ["attention_mask"], "mask_float", to=1)
    return graph.once("Unsqueeze", [mask, graph.weight("axis_2", np.array([2]))], "mask_wide")


def _mean(graph: Graph, x: str, width: int) -> str:
    """The mean over the tokens that are there: x (B, T, H) -> (B, H).

    By attention in which every token counts the same: the sums of ReduceSum and MatMul depend on how many texts and
    threads there are and on the padding, those of attention do not. Twice the same row, as in the last layer.
    """
    if graph.standard:
        return _plain_mean(graph, x)
    bounds = _first(graph)
    first = graph.once("Slice", [x, *bounds], "first_row")
    nothing = graph.weight("nothing", np.array(0, np.float32))
    query = graph.once("Mul", [graph.once("Concat", [first, first], "first_twice", axis=1), nothing], "mean_query")
    mask = graph.once("Cast", ["attention_mask"], "key_mask", to=6)
    size = next(d for d in range(min(64, width), 0, -1) if width % d == 0)
    twice = graph.once(
        "MultiHeadAttention", [query, x, x, "", mask], "mean_twice",
        domain=MICROSOFT, num_heads=width // size, mask_filter_value=-1e4,
    )  # fmt: skip
    return graph.once("Squeeze", [graph.once("Slice", [twice, *bounds], "mean_row"), bounds[2]], "mean_state")


def _plain_mean(graph: Graph, x: str) -> str:
    """The same mean by sums."""
    axis = graph.weight("axis_1", np.array([1]))
    mask = wide_mask(graph)
    total = graph.once("ReduceSum", [graph.once("Mul", [x, mask], "masked"), axis], "mean_total", keepdims=0)
    count = graph.once("ReduceSum", [mask, axis], "mean_count", keepdims=0)
    return graph.once("Div", [total, count], "mean_state")


def _first(graph: Graph) -> list[str]:
    """From 0 to 1 along axis 1."""
    return [graph.weight(n, np.array([v])) for n, v in (("zero", 0), ("one", 1), ("axis_1", 1))]
