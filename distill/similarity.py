"""`match = "auto"`: each of the student's layers learns from the teacher's that its states are already most alike.

Found on a few training texts before the training, by a pass of the teacher of its own. It makes sense for a student
whose layers come from the teacher or from another pretrained model; states of random layers are like none.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from attar.distill.checkpoint import read_tokenizer
from attar.distill.mapping import layers_for
from attar.distill.method import Weighted
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Teacher
from attar.runtime.errors import SettingsError

TEXTS, TOKENS = 128, 2048
"""How many training texts are read, and how many of their tokens count at most."""


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment (Kornblith et al. 2019, section 3) of states (N, H) and (N, G): 0 to 1."""
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    size = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).square().sum() / size) if size > 0 else 0.0


def rising(gains: Tensor) -> tuple[int, ...]:
    """For each row of gains (S, T), S <= T, a column further right than that of the row before, of the largest sum."""
    rows, columns = gains.shape
    best = torch.full((rows + 1, columns + 1), -torch.inf, dtype=torch.float64)
    best[0] = 0.0  # best[i, j]: of the first i rows among the first j columns
    for i in range(rows):
        for j in range(columns):
            best[i + 1, j + 1] = torch.maximum(best[i + 1, j], best[i, j] + gains[i, j])
    found, j = [], columns
    for i in range(rows, 0, -1):
        while best[i, j - 1] == best[i, j]:
            j -= 1
        j -= 1
        found.append(j)
    return tuple(reversed(found))


def resolved(settings: Weighted, student: Student, context: Context) -> Weighted:
    """The settings of a method with its `match`, where it says `auto`, as a list of layers."""
    if getattr(settings, "match", None) != "auto":
        return settings
    return replace(settings, match=most_alike(student, context))  # type: ignore[call-arg]  # as it has that field


def most_alike(student: Student, context: Context) -> tuple[int, ...]:
    """The teacher's layer (1-based) for each of the student's, in rising order; the last one learns from the last."""
    teacher, texts = Teacher(context.teacher, student.task, context.device), context.some(TEXTS)
    if not texts:
        raise SettingsError('match = "auto" compares states of training texts, and there are none; list the layers')
    layers_for("even", student, teacher.layers)  # refuses a student that has no layers, or too many
    between = range(1, teacher.layers)
    with tempfile.TemporaryDirectory() as folder:
        states = [f"hidden{layer}" for layer in between]
        targets = teacher.targets(texts, states, Path(folder) / "targets", context.progress)
        gains = similarities(student, supervise(student, read_tokenizer(context.teacher), targets, texts))
    return (*(between[j] for j in rising(gains)), teacher.layers)


def similarities(student: Student, taught: Supervision) -> Tensor:
    """The CKA of each of the student's layers but the last with each of the teacher's: (S - 1, T - 1)."""
    mine: list[list[Tensor]] = [[] for _ in range(student.encoder.depth - 1)]
    theirs: list[list[Tensor]] = [[] for _ in range(1, taught.depth)]
    student.encoder.eval()
    for start in range(0, len(taught.encoded.ids), 32):
        batch = taught.batch(list(range(start, min(start + 32, len(taught.encoded.ids)))))
        length = batch.ids.shape[1]
        with torch.no_grad():
            hidden = student.encoder(*batch.inputs).hidden
        for layer, kept in enumerate(theirs, 1):
            wanted, known = taught.states(f"hidden{layer}", batch, length)
            kept.append(wanted[known == 1].float())
            if layer == 1:
                for own, state in zip(mine, hidden, strict=False):  # the last layer may have a single row
                    own.append(state[known == 1].float())
    columns = [torch.cat(kept)[:TOKENS] for kept in theirs]
    rows = [torch.cat(own)[:TOKENS] for own in mine]
    return torch.tensor([[linear_cka(x, y) for y in columns] for x in rows]).reshape(len(rows), len(columns))
