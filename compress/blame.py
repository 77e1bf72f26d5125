"""Which layers and matrices of a quantized student its loss comes from.

A part is judged alone: only it is quantized, all else stays in fp32, and what that does to the outputs is its blame.
The other direction, all quantized and one part put back into fp32, asks what a repair would win, but cannot tell two
bad parts apart: with one of them healed the other still ruins the outputs (benchmarks/blame.py measures both). Blame is
the distance of the outputs, since a few hundred answers are too coarse to rank what moves none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan, Rows
from attar.compress.statistics import matrices
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Head, Outputs, Task
from attar.runtime.tokenizer import Encoded

WORDS = "words"
"""What the table of word embeddings is called, which is a part as a layer is."""
Run = Callable[[Student], tuple[Encoded, Outputs]]
"""A student's raw outputs on dev, computed from the exported bytes (`Context.outputs`)."""


@dataclass(frozen=True)
class Part:
    """A layer, a matrix or the word embeddings; `distance` as `distance` says, of the student with it alone in int8."""

    name: str
    matrices: tuple[str, ...]
    distance: float


def plan_of(student: Student) -> QuantPlan:
    """The student's plan; `SettingsError` where it has none."""
    plan = QuantPlan.from_json(student.plan)
    if plan is None:
        raise SettingsError(
            "the student is in fp32, so no matrix of it can be blamed; quantize it (compress.quantize.int8)"
        )
    return plan


def layers(student: Student) -> dict[str, tuple[str, ...]]:
    """The names of what is quantized, by layer; the two halves of a factorized matrix have one name."""
    plan, found = plan_of(student), dict[str, list[str]]()
    for name in matrices(student.transformer):
        _, index, kind = name.split(".")[:3]
        matrix = f"layers.{index}.{kind}"
        of_layer = found.setdefault(f"layers.{index}", [])
        if matrix not in (*plan.full, *of_layer):
            of_layer.append(matrix)
    words = {WORDS: (WORDS,)} if plan.words != "fp32" else {}
    return {**words, **{layer: tuple(names) for layer, names in found.items() if names}}


def without(student: Student, names: Sequence[str]) -> Student:
    """The student with these parts in fp32."""
    plan = plan_of(student)
    full = dict.fromkeys([*plan.full, *(n for n in names if n != WORDS)])
    words: Rows = "fp32" if WORDS in names else plan.words
    return replace(student, plan=replace(plan, full=tuple(full), words=words).to_json())


def alone(student: Student, names: Sequence[str]) -> Student:
    """The student with these parts quantized as its plan has it, and all others in fp32."""
    every = [name for part in layers(student).values() for name in part]
    return without(student, [name for name in every if name not in names])


def distance(task: Task, outputs: Outputs, reference: Outputs) -> float:
    """Squared error of the outputs relative to the variance of the reference's, the mean over the heads.

    0: the same; 1: as far off as if every example had got the mean answer.
    """
    return float(np.mean([_relative(h, outputs[h.name], reference[h.name]) for h in task.heads]))


def _relative(head: Head, outputs: _Values, reference: _Values) -> float:
    mine, true = _meaningful(head, outputs), _meaningful(head, reference)
    variance = float(np.square(true - true.mean(axis=0)).sum())
    return float(np.square(mine - true).sum()) / max(variance, 1e-12)


_Values = NDArray[np.float32] | list[NDArray[np.float32]]


def _meaningful(head: Head, values: _Values) -> NDArray[np.float64]:
    """Outputs (rows or tokens, outputs), without what a softmax does not see: a constant added to all."""
    rows = [np.atleast_2d(row).astype(np.float64) for row in values]
    if head.objective == "span":
        rows = [row - row.mean(axis=0) for row in rows]
    if head.objective == "classes":
        rows = [row - row.mean(axis=1, keepdims=True) for row in rows]
    return np.concatenate(rows)


def ranked(student: Student, parts: Mapping[str, Sequence[str]], run: Run, reference: Outputs) -> list[Part]:
    """The parts, given by the names of their matrices, from the worst on."""
    found = [
        Part(name, tuple(own), distance(student.task, run(alone(student, own))[1], reference))
        for name, own in parts.items()
    ]
    return sorted(found, key=lambda part: -part.distance)


def worst(parts: Sequence[Part], share: float = 0.9) -> list[Part]:
    """The fewest of the ranked parts that together have this share of all blame."""
    before = accumulate((part.distance for part in parts), initial=0.0)
    total = share * sum(part.distance for part in parts)
    return [part for part, sum_before in zip(parts, before, strict=False) if sum_before < total]


def blame(student: Student, run: Run) -> tuple[list[Part], list[Part]]:
    """The layers and the word embeddings from the worst on, then the matrices of the worst of them, likewise."""
    reference = run(replace(student, plan=None))[1]
    found = ranked(student, layers(student), run, reference)
    inside = {name: (name,) for part in worst(found) for name in part.matrices}
    return found, ranked(student, inside, run, reference)
