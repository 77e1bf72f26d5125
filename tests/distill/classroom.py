"""What tests of distillation share: a context whose targets a teacher in a folder gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.distill.checkpoint import depth_of, read_tokenizer
from attar.distill.distil import method_settings
from attar.distill.method import Lesson, Method, find_method
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Teacher
from attar.distill.watch import watched
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.tasks.base import Outputs
from attar.runtime.tokenizer import Encoded
from tests.models import by_size, quiet


def context(folder: Path, cache: Path, train: Examples) -> Context:
    """Targets by the teacher in `folder`, kept in `cache`; no scores and no timing."""

    def supervision(student: Student, states: Sequence[str]) -> Supervision:
        targets = Teacher(folder, student.task).targets(train.texts, states, cache, quiet)
        return supervise(student, read_tokenizer(folder), targets, train.texts)

    def outputs(student: Student) -> tuple[Encoded, Outputs]:
        encoded = student.encode(train.texts)
        return encoded, student.outputs(encoded)

    nothing = Examples((), None, "nothing")
    return Context(
        train, nothing, train, supervision, lambda a, b: Ratio(1.5, 1.4, 1.6, 5), lambda s: 0.0, outputs, folder, quiet,
        by_size,
    )  # fmt: skip


def taught(given: Mapping[str, Any], student: Student, where: Context) -> Supervision:
    """What one method needs."""
    names = find_method(given["use"]).needs(method_settings(given), student, depth_of(where.teacher))
    return where.supervision(student, names)


def built(given: Mapping[str, Any], student: Student, by: Supervision, where: Context) -> Method:
    """The method, with projections that are the same each time."""
    torch.manual_seed(0)
    return find_method(given["use"]).build(method_settings(given), student, by, where)


def lesson(network: nn.Module, method: Method, by: Supervision, rows: list[int]) -> Lesson:
    """What a student makes of some rows."""
    batch = by.batch(rows)
    with watched(network, method.watches) as inner:
        return Lesson(batch, network(*batch.inputs), inner)


def loss(given: Mapping[str, Any], student: Student, where: Context, rows: list[int]) -> Tensor:
    """What the method has to say of the student."""
    by = taught(given, student, where)
    method = built(given, student, by, where)
    found: Tensor = method(lesson(student.encoder, method, by, rows))
    return found
