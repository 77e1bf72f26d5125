"""Lowers a convolutional student to matrix products over every token and its neighbours laid side by side.

Not to the Conv operator: in ONNX Runtime its sums depend on how long the row is (by 1e-5 at width 128), those of MatMul
do not. Measured with 100 filters each of 1, 3 and 5 tokens at width 128, on one AMD EPYC core: the same time up to
batches of 32 x 32 tokens, half as much again at 32 x 64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students.convolutional import Convolutional, around
from attar.export.onnx.graph import Graph
from attar.export.onnx.heads import lower_head, wide_mask
from attar.export.onnx.words import lower_words

END = np.iinfo(np.int64).max
"""What Slice understands as: to the end."""


def lower(student: Student) -> Any:
    """The model of a convolutional student."""
    network = student.encoder
    assert isinstance(network, Convolutional)
    graph, shape = Graph(), network.shape
    state = {k: v.detach().numpy() for k, v in network.state_dict().items()}
    words = lower_words(graph, state, QuantPlan.from_json(student.plan))
    x = _features(graph, state, shape.widths, graph.op("Mul", [words, wide_mask(graph)], "words_real"))
    outputs = {h.name: lower_head(graph, state, h, x, False) for h in shape.heads}
    return graph.model(outputs, "Token ids to the outputs of every head.")


def _features(graph: Graph, state: Mapping[str, NDArray[Any]], widths: tuple[int, ...], x: str) -> str:
    """All filters: x (B, T, E), zeros where there is no token -> (B, T, filters x widths)."""
    before, behind = (max(side) for side in zip(*map(around, widths), strict=True))
    padded = graph.op("Pad", [x, graph.weight("margins", np.array([0, before, 0, 0, behind, 0]))], "words_padded")
    axis = graph.weight("axis_1", np.array([1]))

    def shifted(by: int) -> str:
        """The tokens `by` places behind every token (before it, if negative)."""
        start = graph.weight(f"shift.{by}.start", np.array([before + by]))
        end = graph.weight(f"shift.{by}.end", np.array([by - behind if by < behind else END]))
        return graph.once("Slice", [padded, start, end, axis], f"shift.{by}")

    products = []
    for index, width in enumerate(widths):
        left, right = around(width)
        parts = [shifted(by) for by in range(-left, right + 1)]
        side_by_side = parts[0] if width == 1 else graph.op("Concat", parts, f"filters.{index}.window", axis=2)
        kernel = state[f"filters.{index}.weight"]  # (F, E, width), for windows in which a token's numbers are together
        matrix = graph.weight(f"filters.{index}.weight", kernel.transpose(2, 1, 0).reshape(-1, len(kernel)))
        products.append(graph.op("MatMul", [side_by_side, matrix], f"filters.{index}"))
    found = graph.op("Concat", products, "filters", axis=2)
    bias = np.concatenate([state[f"filters.{index}.bias"] for index in range(len(widths))])
    return graph.op("Relu", [graph.op("Add", [found, graph.weight("filters.bias", bias)], "filters_biased")], "states")
