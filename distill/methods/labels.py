"""The true labels of those texts that have any, as in plain fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.distill.batches import gather
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.objectives import hard
from attar.distill.student import Student
from attar.runtime.data import Examples
from attar.runtime.tasks.base import IGNORED

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    pass


class _Labels(Method):
    def __init__(self, student: Student, train: Examples) -> None:
        super().__init__()
        self.heads = student.task.heads
        encoded = student.encode(train.texts)
        self.rows = self.labelled = len(encoded.ids) if train.labels else 0
        self.targets = student.task.targets(encoded, train.labels) if train.labels else {}

    def forward(self, lesson: Lesson) -> Tensor:
        """The labelled rows come before all others; 0 without any of them."""
        batch, found = lesson.batch, lesson.found
        places = [place for place, row in enumerate(batch.rows) if row < self.labelled]
        losses = [found.heads[self.heads[0].name].sum() * 0.0]
        if places:
            rows, width = [batch.rows[p] for p in places], batch.ids.shape[1]
            for head in self.heads:
                target = gather(self.targets[head.name], rows, width, IGNORED).to(batch.ids.device)
                losses.append(hard(head, found.heads[head.name][places], target, batch.mask[places]))
        return torch.stack(losses).sum()


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    return ()


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _Labels(student, context.train)
