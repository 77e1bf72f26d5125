"""The surgery that both pruners share: new, smaller layers with copies of the kept rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attar.compress.statistics import refit, second_moments
from attar.distill.encoder import Layer, LayerShape, resized
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text


def choose(importance: Sequence[Tensor], keep: float, group: int) -> list[Tensor]:
    """Which units stay: the most important ones over all layers, (kept,) sorted indices a layer.

    `keep` is the fraction of all units; a layer keeps a multiple of `group` units and never fewer than one group.
    """
    if not 0 < keep <= 1:
        raise SettingsError(f"keep must be above 0 and at most 1, not {keep}")
    everything = torch.cat([i / i.norm().clamp_min(1e-12) for i in importance])
    count = max(1, round(keep * len(everything)))
    best = torch.zeros(len(everything), dtype=torch.bool)
    best[everything.argsort(descending=True, stable=True)[:count]] = True  # by rank: equal units are not all kept
    kept = []
    for layer, chosen in zip(importance, best.split([len(i) for i in importance]), strict=True):
        wanted = int(chosen.sum())
        rounded = min(len(layer), max(group, round(wanted / group) * group))
        kept.append(layer.topk(rounded).indices.sort().values)
    return kept


def require_dense(student: Student) -> None:
    """Pruning comes before factorization: it cuts whole matrices."""
    if any(layer.ranks for layer in student.transformer.shape.layers):
        raise SettingsError("pruning needs unfactorized matrices; put compress.prune before compress.factorize")


def shrink_layers(
    student: Student, texts: Sequence[Text], heads: Sequence[Tensor] | None, neurons: Sequence[Tensor] | None
) -> Student:
    """A student that keeps only the given heads or neurons of each layer; the next matrix is refitted on `texts`."""
    require_dense(student)
    old = student.transformer
    shapes = []
    for i, shape in enumerate(old.shape.layers):
        shapes.append(
            LayerShape(
                shape.heads if heads is None else len(heads[i]),
                shape.head_size,
                shape.ffn if neurons is None else len(neurons[i]),
            )
        )
    target = "output" if heads is not None else "ffn_out"
    names = [f"layers.{i}.{target}" for i in range(len(shapes))]
    moments = second_moments(student, texts, names)
    encoder = resized(old, tuple(shapes))
    for i, (new, layer) in enumerate(zip(encoder.layers, old.layers, strict=True)):
        assert isinstance(new, Layer) and isinstance(layer, Layer)
        state = dict(layer.state_dict())
        moment = moments[names[i]]
        if heads is not None:
            size = layer.shape.head_size
            kept = (heads[i][:, None] * size + torch.arange(size)).flatten()
            _cut(state, ("query", "key", "value"), "output", kept, moment)
            if "relative.weight" in state:
                state["relative.weight"] = state["relative.weight"][:, heads[i]]
        if neurons is not None:
            _cut(state, ("ffn_in",), "ffn_out", neurons[i], moment)
        new.load_state_dict(state)
    return replace(student, encoder=encoder.eval())


def _cut(state: dict[str, Tensor], inward: Sequence[str], outward: str, kept: Tensor, moment: Tensor) -> None:
    """Keeps rows of the inward matrices and refits the columns of the outward one."""
    for name in inward:
        state[f"{name}.weight"] = state[f"{name}.weight"][kept]
        state[f"{name}.bias"] = state[f"{name}.bias"][kept]
    weight = state[f"{outward}.weight"]
    if len(kept) < weight.shape[1]:
        state[f"{outward}.weight"] = refit(weight, moment, kept)
