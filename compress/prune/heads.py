"""Removes attention heads that matter least and refits the output projection."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from attar.compress.prune.importance import find_importance
from attar.compress.prune.shrink import calibration, choose, ranked, require_prunable, shrink_layers
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings:
    """`keep`: fraction of all heads that stay; `texts`: how many training texts importance is measured on;
    `importance`: how, by a file in compress/prune/importance/."""

    keep: float = 0.75
    texts: int = 512
    importance: str = "taylor"

    def __post_init__(self) -> None:
        find_importance(self.importance)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student with fewer heads; at least one stays in every layer."""
    require_prunable(student)
    texts = calibration(context, settings.texts)
    importance = ranked(student, "heads", settings.importance, len(texts), settings.keep, context)
    kept = choose(importance, settings.keep, group=1)
    result = shrink_layers(student, texts, kept, None)
    return result.with_step("compress.prune.heads", asdict(settings), heads=[len(k) for k in kept])
