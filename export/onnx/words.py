"""Lowers the word embeddings, which every network has, in fp32 or as int8 rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.export.onnx.graph import Graph

Array = NDArray[Any]


def quantize_columns(weight: Array, bits: int = 8) -> tuple[Array, Array]:
    """Symmetric int8 per output channel: (in, out) float -> (in, out) int8 and scales (out,)."""
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weight).max(axis=0), 1e-12) / top
    return np.clip(np.rint(weight / scale), -top, top).astype(np.int8), scale.astype(np.float32)


def lower_words(
    graph: Graph, state: Mapping[str, Array], plan: QuantPlan | None, name: str = "words", ids: str = "input_ids"
) -> str:
    """The rows (B, T, E) of the embedding table `name` at `ids` (B, T)."""
    table = state[f"{name}.weight"]
    if plan is None or not plan.words:
        return graph.op("Gather", [graph.weight(f"{name}.weight", table), ids], name)
    packed, scale = quantize_columns(table.T)
    rows = graph.op("Gather", [graph.weight(f"{name}.int8", packed.T), ids], f"{name}_int8")
    scales = graph.op("Gather", [graph.weight(f"{name}.scale", scale[:, None]), ids], f"{name}_scale")
    return graph.op("Mul", [graph.op("Cast", [rows], f"{name}_cast", to=1), scales], name)
