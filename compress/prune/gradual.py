"""Gradual pruning: another pruning step in several stages, with a distillation after each (Zhu & Gupta 2018; for
encoders Xia et al. 2022, section 3.3). Every stage keeps the same share of what the one before has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from attar.compress.prune.shrink import check_keep
from attar.distill import distil
from attar.distill.step import Context, find, settings_of
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

HERE = "compress.prune.gradual"


@dataclass(frozen=True)
class Settings:
    """`use`: the pruning step; `keep`: the fraction of its units that stay in the end; `stages`: in how many steps;
    `prune` and `distil`: further settings of the pruning step and of distill.distil, which follows every stage."""

    use: str = "compress.prune.ffn"
    keep: float = 0.5
    stages: int = 3
    prune: Mapping[str, Any] = field(default_factory=dict)
    distil: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_keep(self.keep)
        if self.stages < 1:
            raise SettingsError(f"stages must be at least 1, not {self.stages}")
        if not self.use.startswith("compress.prune.") or self.use == HERE:
            raise SettingsError(f"{HERE} repeats a step of compress/prune/, not {self.use!r}")
        if "keep" in self.prune:
            raise SettingsError("keep in prune would contradict the keep of the whole; leave it out")
        if self.distil.get("layers"):
            raise SettingsError("layers in distil would start every stage anew; leave it out")
        _settings(self)
        settings_of(distil.Settings, self.distil, "distil")


def _settings(settings: Settings) -> Any:
    """Of one stage's pruning."""
    return settings_of(
        find(settings.use).Settings, {**settings.prune, "keep": settings.keep ** (1 / settings.stages)}, settings.use
    )


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The pruned and distilled student."""
    step, cut, lessons = (
        find(settings.use),
        _settings(settings),
        settings_of(distil.Settings, settings.distil, "distil"),
    )
    current, stages = student, []
    for stage in range(settings.stages):
        own = _within(context, stage, settings.stages)
        pruned = step.apply(current, cut, own)
        current = distil.apply(pruned, lessons, own)
        stages.append([{k: v for k, v in entry.items() if k != "settings"} for entry in current.lineage[-2:]])
    return replace(current, lineage=student.lineage).with_step(HERE, asdict(settings), done=stages)


def _within(context: Context, stage: int, stages: int) -> Context:
    """The context of one stage: its share of the progress, and a place of its own for its checkpoint."""

    def progress(fraction: float, line: str) -> None:
        context.progress((stage + fraction) / stages, f"stage {stage + 1} of {stages}: {line}")

    places = context.checkpoints
    own = None if places is None else replace(places, folder=places.folder / f"stage{stage + 1}")
    return replace(context, progress=progress, checkpoints=own)
