"""Removes feed-forward neurons that matter least and refits the second matrix."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from attar.compress.prune.importance import find_importance
from attar.compress.prune.shrink import calibration, check_group, choose, ranked, require_prunable, shrink_layers
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings:
    """`keep`: fraction of all neurons that stay; `group`: a layer keeps a multiple of it, for the kernels' sake;
    `texts`: how many training texts importance is measured on; `importance`: how, by a file in
    compress/prune/importance/."""

    keep: float = 0.5
    group: int = 32
    texts: int = 512
    importance: str = "taylor"

    def __post_init__(self) -> None:
        check_group(self.group)
        find_importance(self.importance)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student with narrower feed-forward layers."""
    require_prunable(student)
    texts = calibration(context, settings.texts)
    importance = ranked(student, "ffn", settings.importance, len(texts), settings.keep, context)
    kept = choose(importance, settings.keep, settings.group)
    result = shrink_layers(student, texts, None, kept)
    return result.with_step("compress.prune.ffn", asdict(settings), ffn=[len(k) for k in kept])
