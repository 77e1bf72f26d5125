"""What students that begin with a table of word embeddings share: the table's start, and how heads read."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from attar.distill.heads import HeadShape, head_shape
from attar.distill.student import Student
from attar.distill.students.encoder import principal
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Task


def at_scale_1(table: Tensor) -> Tensor:
    """The table (V, E) with a root mean square of 1."""
    result: Tensor = table / table.pow(2).mean().sqrt().clamp_min(torch.finfo(table.dtype).tiny)
    return result


def word_table(student: Student, width: int) -> Tensor:
    """(V, width): the given student's word embeddings, where wider in their principal components, at scale 1.

    The scale is the root mean square of all entries: the start that `nn.Embedding` has, with which the matrices that
    PyTorch starts with give sums of order 1.
    """
    words = student.encoder.words.weight.detach()
    if not 0 < width <= words.shape[1]:
        raise SettingsError(f"width must be between 1 and the {words.shape[1]} of the given student, not {width}")
    if width < words.shape[1]:
        words = (words - words.mean(0)) @ principal(words, width)
    return at_scale_1(words)


def pooled_heads(task: Task, hidden: int, dense: int = 0) -> tuple[HeadShape, ...]:
    """The heads of a task on states of width `hidden`, none of which stands for the whole text.

    In a transformer the first token's state does, as it was trained to; here a head that would read it reads the
    maximum over the tokens instead, dimension by dimension (Kim 2014, section 2; Conneau et al. 2017, section 3.2.2).
    A vector is a linear map of what is read, as wide as the teacher's.
    """
    heads = (head_shape(h, hidden, dense, "relu") for h in task.heads)
    pooled = [replace(s, reads="max") if s.reads == "first" else s for s in heads]
    return tuple(
        s if s.linear else replace(s, linear=True, outputs=h.outputs, dense=dense, activation="relu")
        for s, h in zip(pooled, task.heads, strict=True)
    )
