"""Lowers a TF-IDF student. Logarithms are looked up: an engine's own may round by where an element stands."""

from __future__ import annotations

from typing import Any

import numpy as np

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students.tfidf import NEVER
from attar.export.onnx.graph import Graph
from attar.export.onnx.heads import lower_head
from attar.export.onnx.static import axis, bound, constant, neighbours, weight, weighted_mean
from attar.export.onnx.words import Array, lower_words


def lower(student: Student) -> Any:
    """The model of a TF-IDF student."""
    g, shape = Graph(), student.encoder.shape
    plan = QuantPlan.from_json(student.plan)
    state: dict[str, Array] = {k: v.detach().numpy() for k, v in student.encoder.state_dict().items()}
    ids, mask = "input_ids", "attention_mask"
    if shape.bigrams:
        pairs, real = neighbours(g, shape.bigrams)
        pairs = g.op("Add", [pairs, bound(g, shape.vocab)], "pair_features")
        ids, mask = in_turn(g, ids, pairs, "features"), in_turn(g, mask, real, "features_there")
    idf = g.op("Gather", [weight(g, state, "log_idf"), ids], "idf")
    scores = g.op("Add", [frequency(g, state, ids, mask), idf], "tfidf")
    there = g.op("Cast", [mask], "there", to=1)
    far = g.op(
        "Mul", [g.op("Sub", [there, constant(g, "unit", 1)], "absent"), constant(g, "never", -2 * NEVER)], "gone"
    )
    table = lower_words(g, state, plan, ids=ids)
    line = g.op("Unsqueeze", [g.op("Add", [scores, far], "scores"), axis(g, 1)], "scores_line")
    mean = weighted_mean(g, table, line, mask, shape.hidden)
    row = g.op("Unsqueeze", [g.op("Add", [mean, weight(g, state, "bias")], "biased"), axis(g, 1)], "state")
    outputs = {h.name: lower_head(g, state, h, row, True) for h in shape.heads}
    return g.model(outputs, "Token ids to class scores, by TF-IDF.")


def in_turn(g: Graph, tokens: str, pairs: str, name: str) -> str:
    """(B, T) and (B, T - 1) to (B, 2T): each token's value, then that of the pair behind it; 0 behind the last."""
    padded = g.op("Pad", [pairs, g.weight("one_more", np.array([0, 0, 0, 1]))], f"{name}_padded")
    wide = [g.op("Unsqueeze", [x, axis(g, 2)], f"{name}_{n}") for x, n in ((tokens, "tokens"), (padded, "pairs"))]
    both = g.op("Concat", wide, f"{name}_both", axis=2)
    return g.op("Reshape", [both, g.weight("rows", np.array([0, -1]))], name)


def frequency(g: Graph, state: dict[str, Array], ids: str, mask: str) -> str:
    """Logarithms of the sublinear term frequency (B, F) of every feature, by how often its row holds it."""
    here, elsewhere = (g.op("Unsqueeze", [ids, axis(g, a)], n) for a, n in ((2, "here"), (1, "elsewhere")))
    equal = g.op("Equal", [here, elsewhere], "same")
    real = g.op("Unsqueeze", [mask, axis(g, 1)], "real_elsewhere")
    held = g.op("Mul", [g.op("Cast", [equal], "same_number", to=7), real], "held")
    count = g.op("ReduceSum", [held, axis(g, 2)], "count", keepdims=0)
    return g.op("Gather", [g.weight("log_tf", np.asarray(state["log_tf"])), count], "tf")
