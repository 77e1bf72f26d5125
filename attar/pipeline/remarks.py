"""What a run warns of in words: a student or a teacher that has learnt too little. Never an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from attar.runtime.data import Examples
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification


def no_better_than_prior(task: Task, score: float, dev: Examples) -> str:
    """A sentence where a classifier is not above what always giving the commonest label of dev would score."""
    if not isinstance(task, TextClassification) or task.multi_label or not dev.labels:
        return ""
    label, count = Counter(dev.labels).most_common(1)[0]
    prior = 100 * count / len(dev)
    if score > prior + 1e-9:  # both are sums of floats, which may differ in their last bits
        return ""
    return (
        f"The student has learnt nothing yet: {score:.2f} points on dev are not above the class prior, {prior:.2f} for "
        f"always saying {label!r}; train for more epochs, change learning_rate, or look at the labels."
    )


def below_student(teacher: float, student: float, examples: int) -> str:
    """A sentence where the teacher's score on dev is below the final student's."""
    if teacher >= student:
        return ""
    return (
        f"The teacher scores {teacher:.2f} points on dev, below its student's {student:.2f}: on {examples} examples "
        "that may be chance, or the teacher is trained too little. Train it longer, or take a better one."
    )


def remarks(records: Sequence[Mapping[str, Any]], teacher: float, student: float, examples: int) -> list[str]:
    """Every warning of a run: of its kept steps, and of the teacher against the final student on dev."""
    steps = [f"{r['name']}: {r['warning']}" for r in records if r["kept"] and r.get("warning")]
    return [*steps, *filter(None, [below_student(teacher, student, examples)])]
