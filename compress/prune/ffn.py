"""Removes feed-forward neurons that matter least (first-order Taylor importance) and refits the second matrix."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from attar.compress.prune.shrink import choose, require_dense, shrink_layers
from attar.compress.statistics import taylor_importance
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings:
    """`keep`: fraction of all neurons that stay; `group`: a layer keeps a multiple of it, for the kernels' sake."""

    keep: float = 0.5
    group: int = 32
    texts: int = 512


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student with narrower feed-forward layers."""
    require_dense(student)
    texts = context.train.texts[: settings.texts]
    taught = context.supervision(student, ())
    importance = [m.ffn for m in taylor_importance(taught, len(texts))]
    kept = choose(importance, settings.keep, settings.group)
    result = shrink_layers(student, texts, None, kept)
    return result.with_step("compress.prune.ffn", asdict(settings), ffn=[len(k) for k in kept])
