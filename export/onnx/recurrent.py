"""Lowers a recurrent student to the LSTM and GRU operators of ONNX.

Their sums are the same whatever the batch, the padding and the number of threads (tests/export/test_students.py), and
`sequence_lens` makes the backward direction begin at a text's own last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students.recurrent import Recurrent, RecurrentShape
from attar.export.onnx.graph import Graph
from attar.export.onnx.heads import lower_head
from attar.export.onnx.words import lower_words

Array = NDArray[Any]

OPERATORS: Mapping[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
}
"""The operator; where PyTorch keeps the gates that ONNX asks for (i, o, f, c of PyTorch's i, f, g, o; z, r, h of its
r, z, n); and the attributes that make the two the same."""


def lower(student: Student) -> Any:
    """The model of a recurrent student."""
    network = student.encoder
    assert isinstance(network, Recurrent)
    graph, shape = Graph(), network.shape
    state = {k: v.detach().numpy() for k, v in network.state_dict().items()}
    x = lower_words(graph, state, QuantPlan.from_json(student.plan))
    x = graph.op("Transpose", [x], "words_by_time", perm=[1, 0, 2])
    lengths = _lengths(graph)
    for index in range(shape.layers):
        x = _layer(graph, state, shape, index, x, lengths)
    outputs = {h.name: lower_head(graph, state, h, x, False) for h in shape.heads}
    return graph.model(outputs, "Token ids to the outputs of every head.")


def _lengths(graph: Graph) -> str:
    """(B,) int32: how many tokens every row has, at least one."""
    counts = graph.op("ReduceSum", ["attention_mask", graph.weight("axis_1", np.array([1]))], "counts", keepdims=0)
    counts = graph.op("Max", [counts, graph.weight("one", np.array([1]))], "counts_safe")
    return graph.op("Cast", [counts], "lengths", to=6)


def _layer(graph: Graph, state: Mapping[str, Array], shape: RecurrentShape, index: int, x: str, lengths: str) -> str:
    """One layer of both directions: x (T, B, in) -> (T, B, 2 units), or (B, T, 2 units) behind the last layer."""
    kind, order, attributes = OPERATORS[shape.cell]
    base = f"layers.{index}"

    def both(*parts: str) -> Array:
        """The named parameters of both directions, the gates in the operator's order."""
        directions = (f"l{index}", f"l{index}_reverse")
        return np.stack(
            [np.concatenate([_gates(state[f"cells.{p}_{d}"], order) for p in parts]) for d in directions]
        )  # fmt: skip

    weights = {"input": both("weight_ih"), "recurrent": both("weight_hh"), "bias": both("bias_ih", "bias_hh")}
    inputs = [x, *(graph.weight(f"{base}.{name}", value) for name, value in weights.items()), lengths]
    found = graph.op(kind, inputs, base, direction="bidirectional", hidden_size=shape.units, **attributes)
    # (T, 2, B, units) as the operator gives it; ONNX Runtime's has no layout with the batch first.
    perm = [2, 0, 1, 3] if index == shape.layers - 1 else [0, 2, 1, 3]
    turned = graph.op("Transpose", [found], f"{base}.turned", perm=perm)
    joined = graph.weight("joined", np.array([0, 0, shape.hidden]))
    return graph.op("Reshape", [turned, joined], f"{base}.states")


def _gates(value: Array, order: tuple[int, ...]) -> Array:
    """A weight (gates x units, in) or bias (gates x units,) with its gates in another order."""
    return np.concatenate([np.split(value, len(order))[place] for place in order])
