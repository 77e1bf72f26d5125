"""Soft targets with temperature (Hinton et al. 2015, section 2).

What a head's outputs mean decides the distance: distributions over classes, over labels one by one (multi-label), over
the tokens where a span begins and ends, or numbers and vectors (objectives.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.distill.distributions import masked_mean
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`temperature` softens both distributions."""

    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingsError(f"temperature must be above 0, not {self.temperature}")


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """T^2 KL(teacher || student) over the last axis (.., C), mean over the rest, or over where `mask` (..) is 1."""
    log_p = torch.log_softmax(student / temperature, dim=-1)
    log_q = torch.log_softmax(teacher / temperature, dim=-1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1)
    mean = divergence.mean() if mask is None else masked_mean(divergence, mask)
    return mean * temperature**2


class _SoftTargets(Method):
    def __init__(self, taught: Supervision, temperature: float) -> None:
        super().__init__()
        self.taught, self.temperature = taught, temperature

    def forward(self, lesson: Lesson) -> Tensor:
        return self.taught.soft_loss(lesson.found, lesson.batch, self.temperature)


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    return ()


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _SoftTargets(taught, settings.temperature)
