"""Drops whole layers, one after another the one whose loss moves the outputs least away from the teacher's.

Greedy, by the effect of each removal and not by a rule of thumb such as every second layer (compare Sajjad et al. 2023,
section 3, whose rules this measures instead).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from attar.compress.prune.shrink import calibration, check_keep
from attar.distill.checkpoint import require_finite
from attar.distill.distil import take_layers
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.runtime.errors import SettingsError

BATCH = 32


@dataclass(frozen=True)
class Settings:
    """`keep`: fraction of all layers that stay, at least one of them; `drop`: how many go, in place of `keep`;
    `texts`: how many training texts the distance to the teacher is measured on."""

    keep: float = 0.5
    drop: int = 0
    texts: int = 128

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.drop < 0:
            raise SettingsError(f"drop must be a number of layers, 0 or more, not {self.drop}")


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A shallower student."""
    require_finite(student.encoder.state_dict())
    depth = student.transformer.depth
    wanted = depth - settings.drop if settings.drop else max(1, round(settings.keep * depth))
    if wanted < 1:
        raise SettingsError(f"drop = {settings.drop} leaves none of the {depth} layers; at most {depth - 1} can go")
    rows = len(calibration(context, settings.texts))
    taught, kept = context.supervision(student, ()), list(range(1, depth + 1))
    while len(kept) > wanted:
        context.progress((depth - len(kept)) / (depth - wanted), f"{len(kept)} layers left")
        candidates = [[layer for layer in kept if layer != lost] for lost in kept]
        kept = min(candidates, key=lambda layers: distance(take_layers(student, layers), taught, rows))
    result = take_layers(student, kept)
    result.encoder.eval()
    return result.with_step("compress.prune.layers", asdict(settings), layers=kept)


def distance(student: Student, taught: Supervision, rows: int) -> float:
    """Of the student's outputs to the teacher's, mean over the first rows."""
    order = sorted(range(min(rows, len(taught.encoded.ids))), key=lambda i: len(taught.encoded.ids[i]))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(order), BATCH):
            batch = taught.batch(order[start : start + BATCH])
            total += taught.soft_loss(student.encoder(*batch.inputs), batch).item() * len(batch.rows)
    return total / len(order)
