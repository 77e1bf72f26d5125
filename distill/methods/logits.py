"""The teacher's raw outputs as they are, before any softmax (Ba & Caruana 2014, section 2.2).

Unlike soft targets this asks for the outputs' common offset too, and weighs small probabilities like large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.distill.distributions import masked_mean
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.student import Student

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    pass


def logits(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over the last axis (.., C) and the rest, or over where `mask` (..) is 1 (equation 1)."""
    squares = (student.float() - teacher.float()).pow(2).mean(-1)
    return squares.mean() if mask is None else masked_mean(squares, mask)


class _Logits(Method):
    def __init__(self, taught: Supervision) -> None:
        super().__init__()
        self.taught = taught

    def forward(self, lesson: Lesson) -> Tensor:
        losses = []
        for head in self.taught.student.task.heads:
            wanted, known = self.taught.outputs(head, lesson.batch)
            losses.append(logits(lesson.found.heads[head.name], wanted, known if head.reads == "tokens" else None))
        return torch.stack(losses).sum()


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    return ()


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _Logits(taught)
