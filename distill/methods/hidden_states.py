"""Hidden-state matching (TinyBERT, Jiao et al. 2020, equation 8), through a learned projection where widths differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from attar.distill.distributions import masked_mean
from attar.distill.mapping import FREE, layers_for
from attar.distill.method import Lesson, Method, Weighted, projection
from attar.distill.student import Student

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`match`: the teacher's layer (1-based; -1: none) that each of the student's layers imitates, or how to choose
    them: `even` or `last` (mapping.py), or `auto`, by how alike their states are (similarity.py)."""

    match: tuple[int, ...] | str = "even"


def hidden_states(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the real tokens: states (B, T, H) both, mask (B, T) of 0 and 1."""
    per_token = (student.float() - teacher.float()).pow(2).mean(-1)
    return masked_mean(per_token, mask)


class _HiddenStates(Method):
    def __init__(self, taught: Supervision, layers: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.taught = taught
        self.pairs = [(own, layer) for own, layer in enumerate(layers) if layer != FREE]
        self.projections = nn.ModuleList(projection(width, taught.width(f"hidden{layer}")) for _, layer in self.pairs)

    def forward(self, lesson: Lesson) -> Tensor:
        loss = lesson.found.hidden[0].new_zeros(()).float()
        for (own, layer), project in zip(self.pairs, self.projections, strict=True):
            mine = lesson.found.hidden[own]
            wanted, real = self.taught.states(f"hidden{layer}", lesson.batch, mine.shape[1])
            loss = loss + hidden_states(project(mine), wanted, real)
        return loss


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    return tuple(f"hidden{layer}" for layer in layers_for(settings.match, student, depth, free=True) if layer != FREE)


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    layers = layers_for(settings.match, student, taught.depth, free=True)
    return _HiddenStates(taught, layers, student.encoder.shape.hidden)
