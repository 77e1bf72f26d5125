"""Times of students on the target engine, measured in turns so that a slow moment of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.onnx import to_files
from attar.runtime.engines.onnx import OnnxEngine

ROUNDS = 21


def timed(
    calls: Sequence[Callable[[], object]], rounds: int, inner: int = 5, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each call, all of them in turns in every round: the lower quartile, since other work only adds.

    A turn begins with one call that does not count, and brings back to the caches what the others have driven out.
    """
    found: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, times in zip(calls, found, strict=True):
            call()
            start = clock()
            for _ in range(inner):
                call()
            if number:  # the first round warms up
                times.append((clock() - start) / inner)
    return [sorted(times)[len(times) // 4] for times in found]


def as_they_ship(students: Sequence[Student], as_int8: bool) -> list[Student]:
    """Where the recipe will quantize, fp32 students as the int8 students that they will become."""
    if not as_int8 or any(student.plan is not None for student in students):
        return list(students)
    plan = QuantPlan().to_json()
    return [replace(student, plan=plan) for student in students]


def milliseconds(
    students: Sequence[Student],
    batch: int,
    tokens: int,
    as_int8: bool,
    threads: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Of each student's network for `batch` rows of `tokens` tokens, ids in to outputs out, without the tokenizer."""
    calls = [_call(student, batch, tokens, threads) for student in as_they_ship(students, as_int8)]
    return [1e3 * seconds for seconds in timed(calls, ROUNDS, inner=1, clock=clock)]


def _call(student: Student, batch: int, tokens: int, threads: int | None) -> Callable[[], object]:
    files = to_files(student)
    engine = OnnxEngine(files["model.onnx"], threads=threads, files=files)
    ids = np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens) % student.encoder.shape.vocab
    mask = np.ones_like(ids)
    return lambda: engine.run(ids, mask)
