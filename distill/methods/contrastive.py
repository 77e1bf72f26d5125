"""Contrastive representation distillation (CRD, Tian et al. 2020, section 3.1) against a memory of teacher vectors.

A student's text vector is to be nearest to the teacher's of the same text among those of many others. The vectors of
other texts come from a memory (Wu et al. 2018, section 3.1), here a queue as in MoCo (He et al. 2020, section 3.2): the
teacher is frozen, so what lies in it never grows stale. The loss is InfoNCE (van den Oord et al. 2018, equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.distill.batches import Batch
from attar.distill.device import full
from attar.distill.distributions import HIDDEN, masked_mean
from attar.distill.heads import pool
from attar.distill.method import Lesson, Method, Weighted, projection
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision

POOLS = ("first", "mean")
NOBODY = -1


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`bank`: how many other vectors a text is told from; those of the texts seen last, at the start of random ones,
    drawn by `seed`. `pool`: whether the last states of the `first` token or their `mean` make a text's vector."""

    bank: int = 4096
    temperature: float = 0.07
    pool: str = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bank < 1:
            raise SettingsError(f"bank must be at least 1, not {self.bank}")
        if not self.temperature > 0:
            raise SettingsError(f"temperature must be above 0, not {self.temperature}")
        if self.pool not in POOLS:
            raise SettingsError(f"pool must be one of {', '.join(POOLS)}, not {self.pool!r}")


def contrastive(student: Tensor, teacher: Tensor, bank: Tensor, other: Tensor, temperature: float) -> Tensor:
    """-log of the probability of the own teacher vector, for each text: unit vectors (B, D), (B, D), (N, D) -> (B,).

    `other` (B, N): whether a vector of the bank belongs to another text.
    """
    with full(student):
        own = (student * teacher).sum(-1, keepdim=True)
        rest = (student @ bank.T).masked_fill(~other, HIDDEN)
        return -torch.log_softmax(torch.cat([own, rest], 1) / temperature, dim=-1)[:, 0]


class Bank(nn.Module):
    """A queue of `size` vectors (N, D), the newest first, with the row that each belongs to, or `NOBODY`.

    Of one shape from the start, as checkpoints want it.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("vectors", torch.zeros(size, width))
        self.register_buffer("owners", torch.full((size,), NOBODY))

    vectors: Tensor
    owners: Tensor

    def push(self, vectors: Tensor, owners: Tensor) -> None:
        """Takes vectors (B, D) of rows (B,) in, and drops the oldest ones beyond the size."""
        self.vectors = torch.cat([vectors.detach(), self.vectors])[: self.size]
        self.owners = torch.cat([owners, self.owners])[: self.size]


class _Contrastive(Method):
    def __init__(self, settings: Settings, taught: Supervision, width: int) -> None:
        super().__init__()
        self.settings, self.taught, self.state = settings, taught, f"hidden{taught.depth}"
        theirs = taught.width(self.state)
        self.project = projection(width, theirs)
        self.bank = Bank(settings.bank, theirs)
        count = len(taught.encoded.ids)
        drawn = np.random.default_rng(settings.seed).permutation(count)[: settings.bank].tolist()
        for start in range(0, len(drawn), 64):
            vectors, owners = self.teacher(taught.batch(drawn[start : start + 64]))
            self.bank.push(vectors[owners != NOBODY], owners[owners != NOBODY])

    def teacher(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's unit vectors (B, D) and its rows (B,), `NOBODY` where no token is known."""
        length = 1 if self.settings.pool == "first" else batch.ids.shape[1]
        states, known = self.taught.states(self.state, batch, length)
        rows = torch.tensor([self.taught.source[i] for i in batch.rows], device=batch.ids.device)
        vectors = F.normalize(pool(states.float(), known, self.settings.pool), dim=-1)
        return vectors, torch.where(known.any(1), rows, NOBODY)

    def forward(self, lesson: Lesson) -> Tensor:
        pooled = pool(lesson.found.hidden[-1].float(), lesson.batch.mask, self.settings.pool)
        mine = F.normalize(self.project(pooled).float(), dim=-1)
        theirs, owners = self.teacher(lesson.batch)
        other = (owners[:, None] != self.bank.owners) & (self.bank.owners != NOBODY)
        losses = contrastive(mine, theirs, self.bank.vectors, other, self.settings.temperature)
        self.bank.push(theirs[owners != NOBODY], owners[owners != NOBODY])
        return masked_mean(losses, owners != NOBODY)


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    shape = student.encoder.shape
    if not student.encoder.depth:
        raise SettingsError(f"a {shape.kind} student has no states to compare; drop method contrastive")
    if settings.pool == "mean" and getattr(shape, "first_only", False):
        raise SettingsError('the student\'s last layer computes the first token alone: set pool = "first"')
    return (f"hidden{depth}",)


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _Contrastive(settings, taught, student.encoder.shape.hidden)
