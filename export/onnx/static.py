"""Lowers a static-embedding student. Its mean is attention with fixed weights, whose sums no padding changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students.static import PRIME
from attar.export.onnx.graph import MICROSOFT, Graph
from attar.export.onnx.heads import lower_head
from attar.export.onnx.words import Array, lower_words

BEHIND = np.iinfo(np.int64).max


def lower(student: Student) -> Any:
    """The model of a static student."""
    g, shape = Graph(), student.encoder.shape
    plan = QuantPlan.from_json(student.plan)
    state: dict[str, Array] = {k: v.detach().numpy() for k, v in student.encoder.state_dict().items()}
    x = lower_words(g, state, plan)
    if shape.bigrams:
        x = g.op("Add", [x, pairs(g, state, plan, shape.bigrams)], "tokens")
    mask = g.op("Cast", ["attention_mask"], "mask", to=1)
    wide = g.op("Unsqueeze", [mask, axis(g, 2)], "mask_wide")
    far = g.op("Mul", [g.op("Sub", [wide, constant(g, "unit", 1)], "hidden"), constant(g, "far", 1e9)], "hidden_far")
    top = g.op("ReduceMax", [g.op("Add", [x, far], "unmasked"), axis(g, 1)], "top", keepdims=0)
    scores = g.op("Gather", [weight(g, state, "weights.weight"), "input_ids"], "scores")
    line = g.op("Transpose", [scores], "scores_line", perm=[0, 2, 1])
    both = g.op("Concat", [weighted_mean(g, x, line, "attention_mask", shape.width), top], "pooled", axis=-1)
    product = g.op("Gemm", [both, weight(g, state, "mlp.weight"), weight(g, state, "mlp.bias")], "mlp", transB=1)
    result = g.op("Unsqueeze", [g.op("Relu", [product], "activation"), axis(g, 1)], "state")
    outputs = {h.name: lower_head(g, state, h, result, True) for h in shape.heads}
    return g.model(outputs, "Token ids to the outputs of every head, by static embeddings.")


def pairs(g: Graph, state: dict[str, Array], plan: QuantPlan | None, buckets: int) -> str:
    """Embeddings (B, T, E) of each token with its right neighbour; nothing for the last one."""
    ids = "input_ids"
    if "first_ids" in state:
        first = g.weight("first_ids", state["first_ids"].astype(np.int32))
        ids = g.op("Cast", [g.op("Gather", [first, ids], "ids_first")], "ids_hashed", to=7)
    row, there = neighbours(g, buckets, ids)
    found = lower_words(g, state, plan, "pairs", row)
    real = g.op("Unsqueeze", [g.op("Cast", [there], "right_real", to=1), axis(g, 2)], "right_wide")
    ends = g.weight("pair_pads", np.array([0, 0, 0, 0, 1, 0]))
    return g.op("Pad", [g.op("Mul", [found, real], "pairs_real"), ends], "pairs_padded")


def neighbours(g: Graph, buckets: int, ids: str = "input_ids") -> tuple[str, str]:
    """The hashed row of each token with its right neighbour (B, T - 1), by `ids`, and whether there is one."""
    left = g.op("Slice", [ids, bound(g, 0), bound(g, -1), axis(g, 1)], "left")
    right = g.op("Slice", [ids, bound(g, 1), bound(g, BEHIND), axis(g, 1)], "right")
    hashed = g.op("Add", [g.op("Mul", [left, bound(g, PRIME)], "left_times"), right], "neighbours")
    row = g.op("Mod", [hashed, bound(g, buckets)], "pair_ids")
    return row, g.op("Slice", ["attention_mask", bound(g, 1), bound(g, BEHIND), axis(g, 1)], "right_mask")


def weighted_mean(g: Graph, x: str, scores: str, mask: str, width: int) -> str:
    """The mean (B, E) of x (B, T, E) by the softmax of scores (B, 1, T); two equal rows, as for every pooled mean."""
    line = g.op("Unsqueeze", [scores, axis(g, 1)], "scores_wide")
    bias = g.op("Concat", [line, line], "scores_twice", axis=2)
    first = g.op("Slice", [x, bound(g, 0), bound(g, 1), axis(g, 1)], "first")
    nothing = g.op("Mul", [g.op("Concat", [first, first], "first_twice", axis=1), constant(g, "nothing", 0)], "query")
    keys = g.op("Cast", [mask], "key_mask", to=6)
    size = next(d for d in range(min(64, width), 0, -1) if width % d == 0)
    twice = g.op(
        "MultiHeadAttention", [nothing, x, x, "", keys, bias], "mean_twice",
        domain=MICROSOFT, num_heads=width // size, mask_filter_value=-1e4,
    )  # fmt: skip
    row = g.op("Slice", [twice, bound(g, 0), bound(g, 1), axis(g, 1)], "mean_row")
    return g.op("Squeeze", [row, axis(g, 1)], "mean")


def weight(g: Graph, state: dict[str, Array], name: str) -> str:
    return g.weight(name, state[name])


def constant(g: Graph, name: str, value: float) -> str:
    return g.weight(name, np.array(value, np.float32))


def bound(g: Graph, value: int) -> str:
    return g.weight(f"at_{value}", np.array([value]))


def axis(g: Graph, number: int) -> str:
    return g.weight(f"axis_{number}", np.array([number]))
