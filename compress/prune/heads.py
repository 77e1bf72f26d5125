"""Removes attention heads that matter least (first-order Taylor importance) and refits the output projection."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from attar.compress.prune.shrink import choose, require_dense, shrink_layers
from attar.compress.statistics import taylor_importance
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings:
    """`keep`: fraction of all heads that stay; `texts`: how many training texts importance is measured on."""

    keep: float = 0.75
    texts: int = 512


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student with fewer heads; at least one stays in every layer."""
    require_dense(student)
    texts = context.train.texts[: settings.texts]
    taught = context.supervision(student, ())
    importance = [m.heads for m in taylor_importance(taught, len(texts))]
    kept = choose(importance, settings.keep, group=1)
    result = shrink_layers(student, texts, kept, None)
    return result.with_step("compress.prune.heads", asdict(settings), heads=[len(k) for k in kept])
