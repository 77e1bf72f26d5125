"""Narrows the states that all layers share: dimensions that matter least go from every matrix, table and norm at once.

What is cut away is missed in two ways, and both are mended by least squares on training texts. A LayerNorm finds
another mean and variance among the dimensions that stay, so each of them gets a new scale and bias. A matrix that reads
the states is refitted to what is left of them, its bias too. A rotation into principal directions, which keeps more of
the variance but nothing of the norms, is `width` of distill.students.encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from attar.compress.prune.importance import find_importance
from attar.compress.prune.shrink import (
    calibration,
    check_group,
    check_keep,
    choose,
    ranked,
    refitted,
    require_prunable,
)
from attar.compress.statistics import moments, observe
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.encoder import projected, readers
from attar.runtime.tokenizer import Text


@dataclass(frozen=True)
class Settings:
    """`keep`: fraction of the dimensions that stay, a multiple of `group` of them; `texts`: how many training texts
    importance is measured on; `importance`: how, by a file in compress/prune/importance/."""

    keep: float = 0.75
    group: int = 32
    texts: int = 512
    importance: str = "magnitude"

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_group(self.group)
        find_importance(self.importance)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student with narrower states; heads and neurons stay as many as they are."""
    require_prunable(student)
    texts = calibration(context, settings.texts)
    importance = ranked(student, "width", settings.importance, len(texts), settings.keep, context)
    (kept,) = choose(importance, settings.keep, settings.group)
    return narrow(student, texts, kept).with_step("compress.prune.width", asdict(settings), width=len(kept))


def narrow(student: Student, texts: Sequence[Text], kept: Tensor) -> Student:
    """The student with the dimensions `kept` (k,) of its states, norms and readers refitted on the texts."""
    old = student.transformer
    result = projected(student, torch.eye(old.shape.hidden)[:, kept])
    state = result.encoder.state_dict()
    if len(kept) == old.shape.hidden:
        result.encoder.load_state_dict(old.state_dict())
        return result
    matrices = readers(old)
    seen = moments(student, texts, matrices)
    for name, matrix in matrices.items():
        weight, bias = refitted(matrix, seen[name], kept)
        state[f"{name}.weight"].copy_(weight)
        state[f"{name}.bias"].copy_(bias)
    norms = {n: m for n, m in old.named_modules() if isinstance(m, nn.LayerNorm)}
    for name, (scale, shift) in norm_refits(student, texts, norms, kept).items():
        state[f"{name}.weight"].copy_(scale)
        state[f"{name}.bias"].copy_(shift)
    return result


def norm_refits(
    student: Student, texts: Sequence[Text], norms: dict[str, nn.LayerNorm], kept: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """New scale and bias (k,) of each norm: with them it gives of the kept dimensions what it gave of all, as nearly as
    least squares can. A dimension that never varies gets the bias alone."""
    sums = {name: torch.zeros(5, len(kept), dtype=torch.float64) for name in norms}

    def see(name: str, x: Tensor) -> None:
        norm = norms[name]
        # As a function: calling the module would call this hook again.
        wanted = nn.functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)[:, kept].double()
        given = nn.functional.layer_norm(x[:, kept], (len(kept),), eps=norm.eps).double()
        one = torch.ones_like(given)
        sums[name] += torch.stack([one, given, wanted, given * given, given * wanted]).sum(1)

    observe(student, texts, see, norms)
    return {name: fitted(total, norms[name].weight.detach()[kept]) for name, total in sums.items()}


def fitted(sums: Tensor, old: Tensor, damp: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Scale and bias (k,) of a regression for each dimension, from sums (5, k) of 1, x, y, x^2 and xy.

    The damping draws the scale towards `old` (k,), which it is where x does not vary.
    """
    _, x, y, xx, xy = sums / sums[0]
    ridge = damp * (xx - x * x).mean().clamp_min(1e-12) + 1e-9
    scale = (xy - x * y + ridge * old.double()) / ((xx - x * x).clamp_min(0) + ridge)
    return scale.to(old.dtype), (y - scale * x).to(old.dtype)
