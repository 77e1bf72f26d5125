"""Which layer of the teacher teaches which of the student's. `auto`, which needs texts, lies in similarity.py."""

from __future__ import annotations

from attar.distill.student import Student
from attar.runtime.errors import SettingsError

RULES = ("even", "last")
FREE = -1
"""In a list of layers: the student's layer imitates none."""


def layers_for(match: tuple[int, ...] | str, student: Student, depth: int, *, free: bool = False) -> tuple[int, ...]:
    """For each of the student's layers one of the teacher's `depth` layers (1-based; with `free` also `FREE`).

    `even` spreads them (PKD-skip, Sun et al. 2019, section 3.2), `last` takes the teacher's last ones (PKD-last).
    """
    count = student.encoder.depth
    if not count:
        raise SettingsError(f"a {student.encoder.shape.kind} student has no layers to match; drop the method")
    if isinstance(match, str):
        if match not in RULES:
            raise SettingsError(f"match must be a list of layers or one of {', '.join(RULES)}, auto, not {match!r}")
        if count > depth:
            raise SettingsError(f"{count} layers cannot be matched by rule to the teacher's {depth}; list them")
        return even(count, depth) if match == "even" else tuple(range(depth - count + 1, depth + 1))
    if len(match) != count:
        raise SettingsError(f"match names {len(match)} teacher layers, the student has {count}")
    wrong = [layer for layer in match if not 0 <= layer <= depth and not (free and layer == FREE)]
    if not wrong and set(match) == {FREE}:
        raise SettingsError(f"match leaves every layer free ({FREE}); name a teacher's layer, or drop the method")
    if wrong:
        raise SettingsError(f"match: {wrong[0]} is not one of the teacher's {depth} layers (counted from 1)")
    return match


def even(count: int, depth: int) -> tuple[int, ...]:
    """`count` of `depth` layers in even steps, the last one among them."""
    return tuple(round((i + 1) * depth / count) for i in range(count))
