"""The tokens of a batch without its padding: (N, W) for all rows one after another, and back to (B, T, W).

Products, norms and activations work on single tokens, so a batch of mixed lengths costs what its tokens cost;
attention alone reads padded rows. What that is worth, and what it costs where no row is padded: benchmarks/NOTES.md.
"""

from __future__ import annotations

import numpy as np

from attar.export.onnx.graph import Graph


def pack(g: Graph, x: str, name: str) -> str:
    """The tokens that are there: x (B, T) or (B, T, W) -> (N,) or (N, W)."""
    return g.op("GatherND", [x, g.once("Transpose", [_axes(g)], "tokens_there", perm=[1, 0])], name)


def unpack(g: Graph, x: str, name: str) -> str:
    """Every token in its row: x (N, W) -> (B, T, W). Padding holds the token before it, which is finite."""
    return g.op("Gather", [x, _rows(g)], name, axis=0)


def first_tokens(g: Graph, x: str, name: str) -> str:
    """The first token of every row: x (N, W) -> (B, 1, W)."""
    bounds = [g.weight(n, np.array([v])) for n, v in (("zero", 0), ("one", 1), ("axis_1", 1))]
    return g.op("Gather", [x, g.once("Slice", [_rows(g), *bounds], "first_rows")], name, axis=0)


def token_places(g: Graph) -> str:
    """How many tokens stand before each in its row (N,)."""
    line = g.once("Gather", [_axes(g), g.weight("one", np.array([1]))], "token_places_line", axis=0)
    return g.once("Reshape", [line, g.weight("line", np.array([-1]))], "token_places")


def _axes(g: Graph) -> str:
    """The row of each token, and its place there (2, N)."""
    return g.once("NonZero", ["attention_mask"], "tokens_by_axis")


def _rows(g: Graph) -> str:
    """Which of all tokens stands at each place of the padded rows (B, T)."""
    line = g.once("Reshape", ["attention_mask", g.weight("line", np.array([-1]))], "mask_line")
    counts = g.once("CumSum", [line, g.weight("zero", np.array([0]))], "tokens_counted")
    numbers = g.once("Sub", [counts, g.weight("one", np.array([1]))], "token_numbers")
    return g.once("Reshape", [numbers, g.once("Shape", ["attention_mask"], "batch_shape")], "token_rows")
