"""Lowers the word embeddings, which every network has: rows in fp32, int8 or int4, and a product where factorized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.export.onnx.graph import MICROSOFT, Graph

Array = NDArray[Any]
BLOCK = 32
"""Values of an int4 row that share a scale."""
ZERO = 8
"""The nibble that stands for 0; the engine takes it so unless told otherwise."""


def quantize_columns(weight: Array, bits: int = 8) -> tuple[Array, Array]:
    """Symmetric int8 per output channel: (in, out) float -> (in, out) int8 and scales (out,)."""
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / top
    return np.clip(np.rint(weight / scale), -top, top).astype(np.int8), scale.astype(np.float32)


def quantize_blocks(table: Array) -> tuple[Array, Array]:
    """Symmetric int4 per block of a row: (V, E) float -> nibbles (V, ceil(E / 2)) uint8, scales (V, ceil(E / 32)).

    The first of two values is the low nibble; `ZERO` is 0. Behind a row of odd width stands one nibble of 0.
    """
    vocab, width = table.shape
    blocks = -(-width // BLOCK)
    padded = np.zeros((vocab, blocks * BLOCK), np.float32)
    padded[:, :width] = table
    split = padded.reshape(vocab, blocks, BLOCK)
    scale = (np.maximum(np.abs(split).max(axis=-1), 1e-12) / 7).astype(np.float32)
    levels = np.clip(np.rint(split / scale[..., None]), -7, 7).astype(np.int8) + ZERO
    pairs = levels.reshape(vocab, -1, 2).astype(np.uint8)[:, : -(-width // 2)]
    return pairs[..., 0] | pairs[..., 1] << 4, scale


def lower_words(
    graph: Graph, state: Mapping[str, Array], plan: QuantPlan | None, name: str = "words", ids: str = "input_ids"
) -> str:
    """What the network reads of the embedding table `name` at `ids` (..): rows (.., E), made long where factorized."""
    up = state.get(f"{name}_up.weight")
    if up is None:
        return _rows(graph, state[f"{name}.weight"], plan, name, ids)
    rows = _rows(graph, state[f"{name}.weight"], plan, f"{name}_short", ids)
    return graph.op("MatMul", [rows, graph.weight(f"{name}_up.weight", up.T)], name)


def _rows(graph: Graph, table: Array, plan: QuantPlan | None, name: str, ids: str) -> str:
    """Rows (.., E) of a table (V, E)."""
    if plan is None or plan.words == "fp32":
        return graph.op("Gather", [graph.weight(f"{name}.weight", table), ids], name)
    if plan.words == "int4":
        return _int4(graph, table, name, ids)
    packed, scale = quantize_columns(table.T)
    rows = graph.op("Gather", [graph.weight(f"{name}.int8", packed.T), ids], f"{name}_int8")
    scales = graph.op("Gather", [graph.weight(f"{name}.scale", scale[:, None]), ids], f"{name}_scale")
    return graph.op("Mul", [graph.op("Cast", [rows], f"{name}_cast", to=1), scales], name)


def _int4(graph: Graph, table: Array, name: str, ids: str) -> str:
    """Rows of nibbles in bytes: on tensors of the type int4 the same kernel takes twenty times as long."""
    packed, scale = quantize_blocks(table)
    inputs = [graph.weight(f"{name}.int4", packed), ids, graph.weight(f"{name}.scale", scale)]
    odd = table.shape[1] % 2
    rows = graph.op(
        "GatherBlockQuantized", inputs, f"{name}_even" if odd else name,
        domain=MICROSOFT, gather_axis=0, quantize_axis=1, block_size=BLOCK, bits=4,
    )  # fmt: skip
    if not odd:
        return rows
    bounds = [graph.weight(f"{name}.{n}", np.array([v])) for n, v in (("start", 0), ("end", -1), ("axis", -1))]
    return graph.op("Slice", [rows, *bounds], name)
