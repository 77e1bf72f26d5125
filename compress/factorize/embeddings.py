"""Factorized word embeddings: the table (V, H) becomes rows (V, r) times one matrix (r, H) (ALBERT, Lan et al. 2020,
section 3.1; there trained so, here the best start after training).

It makes a student smaller, not faster: there is one more small product. Of all tables of rank r it is the one with the
least squared error of a row, in the mean over the tokens of the training and unlabelled texts, each counted once more
than it occurs so that no row is free. The matrix has orthonormal rows: the short rows are as far apart as the long.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from attar.compress.factorize.lowrank import STEP
from attar.distill.checkpoint import require_finite
from attar.distill.encoder import Encoder
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """`budget`: how many of the table's entries may stay, as a fraction; the rank is a multiple of 8."""

    budget: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1:
            raise SettingsError(f"budget is a fraction of the table's entries, above 0 and below 1, not {self.budget}")


def rank_of(vocab: int, hidden: int, budget: float) -> int:
    """The largest multiple of 8 at which rows and matrix have at most that part of the table's entries."""
    rank = int(budget * vocab * hidden / (vocab + hidden)) // STEP * STEP
    if rank < STEP:
        least = STEP * (vocab + hidden) / (vocab * hidden)
        raise SettingsError(
            f"budget {budget} cannot be met: with rank {STEP}, the lowest, {least:.3g} of {vocab} x {hidden} "
            "word embeddings stays"
        )
    return rank


def factors(table: Tensor, counts: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """table (V, H), how often each row is read (V,) -> rows (V, rank), up (H, rank) with orthonormal columns.

    Minimises sum_v counts_v |table_v - up rows_v|^2: the eigenvectors of table^T diag(counts) table.
    """
    exact = table.double()
    _, vectors = torch.linalg.eigh(exact.T @ (counts.double()[:, None] * exact))
    up = vectors.flip(-1)[:, :rank]
    return (exact @ up).to(table.dtype), up.to(table.dtype).contiguous()


def token_counts(student: Student, context: Context) -> Tensor:
    """(V,): how often the student reads each token in the training and unlabelled texts."""
    rows = student.encode(context.train.texts + context.unlabelled.texts).ids
    return torch.bincount(torch.tensor([i for row in rows for i in row]), minlength=student.encoder.shape.vocab)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student with short rows of word embeddings and the matrix that makes them long."""
    old = student.transformer
    if old.shape.word_rank:
        raise SettingsError("the word embeddings are factorized already; drop the second compress.factorize.embeddings")
    table = old.words.weight.detach()
    require_finite({"words.weight": table})
    rank = rank_of(old.shape.vocab, old.shape.hidden, settings.budget)
    rows, up = factors(table, token_counts(student, context) + 1, rank)
    encoder = Encoder(replace(old.shape, word_rank=rank))
    encoder.load_state_dict({**old.state_dict(), "words.weight": rows, "words_up.weight": up})
    return replace(student, encoder=encoder.eval()).with_step(
        "compress.factorize.embeddings", asdict(settings), rank=rank
    )
