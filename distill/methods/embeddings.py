"""The output of the embeddings, before any layer: token by token, or how similar the tokens of a text are.

Word embeddings themselves learn only where the step says `train_words`; positions and their LayerNorm always do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from attar.distill.device import full
from attar.distill.distributions import masked_mean
from attar.distill.method import Lesson, Method, Weighted, projection
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision

MODULE = "embedding_norm"


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`distance`: `cosine` or `mse` of each token, through a learned projection where widths differ; or `similarity`,
    the mean squared difference of the cosines of all pairs of tokens, for which widths do not matter."""

    distance: str = "cosine"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise SettingsError(f"distance must be one of {', '.join(DISTANCES)}, not {self.distance!r}")


def cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine, mean over the real tokens: (B, T, H), mask (B, T) (DistilBERT, Sanh et al. 2019, section 2)."""
    return masked_mean(1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1), mask)


def mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the real tokens: (B, T, H), mask (B, T) (TinyBERT, Jiao et al. 2020, equation 9)."""
    return masked_mean((student.float() - teacher.float()).pow(2).mean(-1), mask)


def similarity(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the cosines of every two real tokens of a text: (B, T, H), (B, T, G), mask (B, T).

    Similarity-preserving distillation (Tung & Mori 2019, equation 4), of tokens in place of images.
    """
    with full(student):
        mine, theirs = (F.normalize(x.float(), dim=-1) for x in (student, teacher))
        difference = mine @ mine.transpose(1, 2) - theirs @ theirs.transpose(1, 2)
    return masked_mean(difference.pow(2), mask[:, :, None] * mask[:, None, :])


DISTANCES = {"cosine": cosine, "mse": mse, "similarity": similarity}


class _Embeddings(Method):
    watches = (MODULE,)

    def __init__(self, taught: Supervision, width: int, distance: str) -> None:
        super().__init__()
        self.taught, self.distance = taught, DISTANCES[distance]
        # Similarities of tokens are compared whatever the width.
        self.project = projection(width, width if distance == "similarity" else taught.width("hidden0"))

    def forward(self, lesson: Lesson) -> Tensor:
        mine = lesson.inner[MODULE]
        wanted, real = self.taught.states("hidden0", lesson.batch, mine.shape[1])
        return self.distance(self.project(mine), wanted, real)


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    if not hasattr(student.encoder, MODULE):
        raise SettingsError(f"a {student.encoder.shape.kind} student's embeddings cannot be taught; drop the method")
    return ("hidden0",)


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _Embeddings(taught, student.encoder.shape.hidden, settings.distance)
