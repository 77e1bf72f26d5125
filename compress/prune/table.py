"""What heads and neurons cost on the target engine: a table of latencies, measured (Kurtic et al. 2023, section 3.2).

It is built from below: an entry is what a block of some size adds to a network whose blocks are all of the least size,
so that small blocks are not told by the difference of two large times. The last layer has entries of its own where it
computes the first token's row alone. A network's time is not quite the sum of its blocks', so all entries are scaled to
give the student's own time exactly; that of the least network was measured as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attar.compress.prune.units import Part, count, with_count
from attar.distill.encoder import Encoder, LayerShape
from attar.distill.student import Student

DEPTH = 4
"""Layers of a timed network, at most: more would only take memory."""
WORDS = 1000
"""Rows of its table of words, at most: how many there are does not matter to the time."""
PARTS: tuple[Part, Part] = ("heads", "ffn")

Clock = Callable[[Sequence[Student]], list[float]]
"""Milliseconds of each student, measured in turns."""


@dataclass(frozen=True)
class Curve:
    """Milliseconds that a block of so many units adds to one of the least size."""

    counts: tuple[int, ...]
    ms: tuple[float, ...]

    def at(self, wanted: int) -> float:
        """By straight lines between what was measured."""
        return float(np.interp(wanted, self.counts, self.ms))


@dataclass(frozen=True)
class Table:
    """Milliseconds of the student with every block of the least size, and the curves of each layer."""

    least: float
    curves: tuple[Mapping[Part, Curve], ...]
    scale: float = 1.0

    def cost(self, layer: int, part: Part, wanted: int) -> float:
        """Milliseconds that a block of so many units adds."""
        return self.scale * self.curves[layer][part].at(wanted)

    def predicted(self, shapes: Sequence[LayerShape]) -> float:
        """Milliseconds of the student with layers of these sizes."""
        costs = [self.cost(i, part, count(shape, part)) for i, shape in enumerate(shapes) for part in PARTS]
        return self.least + sum(costs)


def counts(most: int, levels: int, group: int) -> tuple[int, ...]:
    """About `levels` sizes in even steps from one group to all `most` units: multiples of the group, the last aside."""
    steps = np.linspace(min(group, most), most, levels)[:-1]
    return tuple(sorted({min(most, max(1, round(s / group)) * group) for s in steps.tolist()} | {most}))


def measured(student: Student, sizes: Mapping[Part, Sequence[int]], clock: Clock) -> Table:
    """The table of a student, for blocks of the given sizes in rising order."""
    shapes = student.transformer.shape.layers
    depth, low = min(DEPTH, len(shapes)), replace(shapes[0], heads=sizes["heads"][0], ffn=sizes["ffn"][0])
    kinds = _kinds(student, depth)
    cases = [(places, part, size) for places in kinds for part in PARTS for size in sizes[part][1:]]
    networks = [bare(student, cut([low] * depth, *case)) for case in cases]
    own, least, few, *times = clock(
        [student, bare(student, [low] * len(shapes)), bare(student, [low] * depth), *networks]
    )
    added = {case: (time - few) / len(case[0]) for case, time in zip(cases, times, strict=True)}

    def curve(places: tuple[int, ...], part: Part) -> Curve:
        return Curve(tuple(sizes[part]), (0.0, *(added[places, part, size] for size in sizes[part][1:])))

    curves = [{part: curve(places, part) for part in PARTS} for places in kinds]
    table = Table(least, tuple(curves[-1 if i == len(shapes) - 1 else 0] for i in range(len(shapes))))
    sum_of_blocks = table.predicted(shapes) - least
    return replace(table, scale=(own - least) / sum_of_blocks) if sum_of_blocks > 0 < own - least else table


def _kinds(student: Student, depth: int) -> list[tuple[int, ...]]:
    """Groups of layers that are alike in a timed network."""
    if depth == 1 or not student.transformer.shape.first_only:
        return [tuple(range(depth))]
    return [tuple(range(depth - 1)), (depth - 1,)]


def cut(layers: Sequence[LayerShape], places: Sequence[int], part: Part, wanted: int) -> list[LayerShape]:
    """The layers, those at the given places with so many units."""
    return [with_count(shape, part, wanted) if i in places else shape for i, shape in enumerate(layers)]


def bare(student: Student, layers: Sequence[LayerShape]) -> Student:
    """An untrained student with such layers: its latency does not depend on the weights."""
    shape = student.transformer.shape
    return replace(
        student, encoder=Encoder(replace(shape, vocab=min(WORDS, shape.vocab), layers=tuple(layers))).eval(), lineage=()
    )
