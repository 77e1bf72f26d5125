"""Prunes heads and neurons to a latency, which is measured on the target engine (ZipLM, Kurtic et al. 2023).

A table says what every size of a block costs in milliseconds (section 3.2), a trial what it costs in accuracy: how far
the student's outputs move when that block alone is cut and refitted. The search chooses one size for each block. What
comes out is timed, and recorded beside what the table had predicted. Times vary, so two runs may choose differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from attar.compress.prune.budget import cheapest
from attar.compress.prune.importance import find_importance
from attar.compress.prune.shrink import Kept, calibration, check_group, ranked, require_prunable, shrink_layers
from attar.compress.prune.table import PARTS, Table, counts, measured
from attar.compress.prune.trials import best, losses
from attar.compress.prune.units import Part, count
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text


@dataclass(frozen=True)
class Settings:
    """What to keep to: `speedup`, how many times faster than the given student, or `milliseconds` where that is above
    0, for `batch` rows of `tokens` tokens. `levels`: how many sizes of a block are tried; `group`: its neurons are a
    multiple of it; `texts`: how many training texts importance is measured on; `importance`: how, by a file in
    compress/prune/importance/."""

    speedup: float = 2.0
    milliseconds: float = 0.0
    batch: int = 8
    tokens: int = 32
    levels: int = 8
    group: int = 32
    texts: int = 512
    importance: str = "fisher"

    def __post_init__(self) -> None:
        check_group(self.group)
        find_importance(self.importance)
        if self.milliseconds < 0 or (not self.milliseconds and not self.speedup > 1):
            raise SettingsError(f"speedup must be above 1, not {self.speedup}, or milliseconds above 0")
        for name, least in (("batch", 1), ("tokens", 1), ("levels", 2)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} must be at least {least}, not {getattr(self, name)}")


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student that keeps to the latency; one head and one group of neurons stay in every layer."""
    require_prunable(student)
    shape, texts = student.transformer.shape, calibration(context, settings.texts)
    if settings.tokens > shape.positions:
        raise SettingsError(f"tokens must be at most the student's {shape.positions} positions, not {settings.tokens}")
    sizes: dict[Part, tuple[int, ...]] = {
        "heads": counts(max(s.heads for s in shape.layers), settings.levels, 1),
        "ffn": counts(max(s.ffn for s in shape.layers), settings.levels, settings.group),
    }
    context.progress(0.0, "timing blocks of every size")
    table = measured(student, sizes, lambda given: context.milliseconds(given, settings.batch, settings.tokens))
    kept = search(student, table, sizes, settings, texts, context)
    result = shrink_layers(student, texts, kept["heads"], kept["ffn"])
    before, after = context.milliseconds([student, result], settings.batch, settings.tokens)
    share = table.predicted(result.transformer.shape.layers) / table.predicted(shape.layers)
    return result.with_step(
        "compress.prune.latency",
        asdict(settings),
        **{part: [len(k) for k in kept[part]] for part in PARTS},
        # All three belong to the same rounds, since a machine has slower and faster minutes.
        before_ms=round(before, 4),
        predicted_ms=round(share * before, 4),
        measured_ms=round(after, 4),
    )


def search(
    student: Student,
    table: Table,
    sizes: Mapping[Part, Sequence[int]],
    settings: Settings,
    texts: Sequence[Text],
    context: Context,
) -> dict[Part, Kept]:
    """The units that stay in each layer, within the budget; `SettingsError` where it cannot be met."""
    shapes = student.transformer.shape.layers
    choices = {
        (layer, part): [*(size for size in sizes[part] if size < count(shape, part)), count(shape, part)]
        for layer, shape in enumerate(shapes)
        for part in PARTS
    }
    costs = {block: [table.cost(*block, size) for size in choices[block]] for block in choices}
    before = table.predicted(shapes)
    budget = settings.milliseconds or before / settings.speedup
    least = table.least + sum(min(of_block) for of_block in costs.values())
    if least > budget:
        raise SettingsError(_unmet(budget, least, before, settings))
    keep = min(1.0, budget / before)
    importances = {part: ranked(student, part, settings.importance, len(texts), keep, context) for part in PARTS}
    context.progress(0.5, f"trying {sum(map(len, choices.values()))} sizes of {len(choices)} blocks")
    found = losses(student, texts, importances, choices)
    levels = cheapest(list(costs.values()), [found[block] for block in choices], budget - table.least)
    chosen = {block: choices[block][level] for block, level in zip(choices, levels, strict=True)}
    return {
        part: [best(importances[part][layer], chosen[layer, part]) for layer in range(len(shapes))] for part in PARTS
    }


def _unmet(budget: float, least: float, before: float, settings: Settings) -> str:
    """The message: the best that can be had, and what stops it."""
    wanted = f"milliseconds = {settings.milliseconds:g}" if settings.milliseconds else f"speedup = {settings.speedup:g}"
    return (
        f"{wanted} cannot be had: {budget:.3f} ms for {settings.batch} x {settings.tokens} tokens, and with the least "
        f"of every block (one head, {settings.group} neurons) it takes {least:.3f} ms, {before / least:.2f} times as "
        "fast as now; what is left are embeddings, norms and outputs of every layer. Drop layers first "
        "(compress.prune.layers), or ask for less"
    )
