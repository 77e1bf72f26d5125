"""What the pruners share: the choice of units, and the surgery, new and smaller layers with copies of what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from attar.compress.prune.importance import comparable, find_importance
from attar.compress.prune.units import OUTWARD, Part, columns, with_count
from attar.compress.statistics import Moments, moments, refit, refit_bias
from attar.distill.checkpoint import require_finite
from attar.distill.encoder import Layer, resized
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tokenizer import Text

Kept = Sequence[Tensor]
"""For each layer the units that stay: (kept,) sorted indices."""


def choose(importance: Sequence[Tensor], keep: float, group: int) -> list[Tensor]:
    """Which units stay: the most important ones over all layers, (kept,) sorted indices a layer.

    `keep` is the fraction of all units; a layer keeps a multiple of `group` units and never fewer than one group.
    """
    check_keep(keep)
    everything = torch.cat(list(importance))
    count = max(1, round(keep * len(everything)))
    best = torch.zeros(len(everything), dtype=torch.bool)
    best[everything.argsort(descending=True, stable=True)[:count]] = True  # by rank: equal units are not all kept
    kept = []
    for layer, chosen in zip(importance, best.split([len(i) for i in importance]), strict=True):
        wanted = int(chosen.sum())
        rounded = min(len(layer), max(group, round(wanted / group) * group))
        kept.append(layer.topk(rounded).indices.sort().values)
    return kept


def check_keep(keep: float) -> None:
    if not 0 < keep <= 1:
        raise SettingsError(f"keep must be above 0 and at most 1, not {keep}")


def check_group(group: int) -> None:
    if group < 1:
        raise SettingsError(f"group must be at least 1, not {group}")


def ranked(student: Student, part: Part, use: str, texts: int, keep: float, context: Context) -> list[Tensor]:
    """The importance of each unit, (units,) a layer, comparable over the layers, by the measure `use`."""
    check_keep(keep)
    return comparable(find_importance(use).measure(student, part, texts, keep, context), use)


def require_prunable(student: Student) -> None:
    """Pruning comes before factorization, since it cuts whole matrices, and needs finite weights."""
    if any(layer.ranks for layer in student.transformer.shape.layers):
        raise SettingsError("pruning needs unfactorized matrices; put compress.prune before compress.factorize")
    require_finite(student.encoder.state_dict())


def calibration(context: Context, count: int) -> Sequence[Text]:
    """`count` training texts; one is enough for the mathematics, but none is not."""
    found = context.some(count)
    if not found:
        raise (SettingsError("texts must be at least 1") if count < 1 else DataError("pruning needs a training text"))
    return found


def shrink_layers(student: Student, texts: Sequence[Text], heads: Kept | None, neurons: Kept | None) -> Student:
    """A student that keeps only the given heads or neurons of each layer; the next matrix is refitted on `texts`."""
    require_prunable(student)
    if heads is not None:
        student = _shrink(student, texts, "heads", heads)
    return student if neurons is None else _shrink(student, texts, "ffn", neurons)


def _shrink(student: Student, texts: Sequence[Text], part: Part, kept: Kept) -> Student:
    old = student.transformer
    if any(len(units) == 0 for units in kept):
        raise SettingsError(f"a layer would lose the last of its {part}; drop whole layers by compress.prune.layers")
    shapes = tuple(with_count(shape, part, len(units)) for shape, units in zip(old.shape.layers, kept, strict=True))
    found = outward_moments(student, texts, part)
    encoder = resized(old, shapes)
    for new, layer, units, seen in zip(encoder.layers, old.layers, kept, found, strict=True):
        assert isinstance(new, Layer) and isinstance(layer, Layer)
        new.load_state_dict(_cut(layer, part, units, seen))
    return replace(student, encoder=encoder.eval())


def outward_moments(student: Student, texts: Sequence[Text], part: Part) -> list[Moments]:
    """Of what the outward matrix of each layer reads."""
    layers = enumerate(student.transformer.layers)
    found = moments(student, texts, {str(i): layer.get_submodule(OUTWARD[part]) for i, layer in layers})
    return list(found.values())


def refitted(matrix: nn.Linear, seen: Moments, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (out, k) and bias (out,) of a matrix that reads the inputs `kept` (k,) only."""
    weight, bias = matrix.weight.detach(), matrix.bias.detach()
    if len(kept) == weight.shape[1]:
        return weight, bias
    new = refit(weight, seen.covariance, kept)
    return new, refit_bias(weight, bias, new, seen.mean, kept)


def _cut(layer: Layer, part: Part, units: Tensor, seen: Moments) -> dict[str, Tensor]:
    """The layer's state with the given units only: rows of what writes them, refitted columns of what reads them."""
    state, kept = dict(layer.state_dict()), columns(layer.shape, part, units)
    for name in ("query", "key", "value") if part == "heads" else ("ffn_in",):
        state[f"{name}.weight"] = state[f"{name}.weight"][kept]
        state[f"{name}.bias"] = state[f"{name}.bias"][kept]
    if part == "heads" and "relative.weight" in state:
        state["relative.weight"] = state["relative.weight"][:, units]
    outward = layer.get_submodule(OUTWARD[part])
    assert isinstance(outward, nn.Linear)
    state[f"{OUTWARD[part]}.weight"], state[f"{OUTWARD[part]}.bias"] = refitted(outward, seen, kept)
    return state
