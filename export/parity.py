"""Does the exported file compute what PyTorch computes? Real texts, edge lengths, batches of 1 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.runtime.errors import ParityError
from attar.runtime.tasks.classification import softmax

TOLERANCE = 1e-4
"""Largest difference in fp32 logits, relative to the largest logit (at least 1)."""


@dataclass(frozen=True)
class Parity:
    """fp32 lowering against PyTorch, in logits; and the shipped scheme against fp32, in probability and top-1 (%)."""

    max_abs: float
    mean_abs: float
    texts: int
    checks: tuple[str, ...]
    scheme_max_probability: float
    scheme_agreement: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"checks": list(self.checks)}


def edge_texts(student: Student) -> dict[str, list[str]]:
    """Inputs at the edges: no text at all, one token, exactly the longest, and longer than the model reads."""
    word = "a "
    return {
        "length 1": ["", "a"],
        "longest": [word * (student.task.max_length - 2)],
        "truncated": [word * (3 * student.task.max_length)],
        "mixed lengths": ["a", word * (student.task.max_length - 2), word * 7],
    }


def check(student: Student, texts: Sequence[str]) -> Parity:
    """Compares; raises `ParityError` naming the check that fails and by how much."""
    plain = replace(student, plan=None)
    fp32, shipped = in_memory(plain), in_memory(student)
    cases = {"batch 1": list(texts[:1]), "batch 32": list(texts[:32]), "real texts": list(texts)}
    cases |= edge_texts(student)
    worst, total, count = 0.0, 0.0, 0
    for name, inputs in cases.items():
        expected = student.logits(inputs).numpy()
        found = fp32.logits(inputs)
        error = np.abs(found - expected)
        relative = float(error.max() / max(1.0, np.abs(expected).max()))
        if not relative <= TOLERANCE:
            raise ParityError(
                f"{name}: the exported graph departs from PyTorch by {relative:.2g} (at most {TOLERANCE})"
            )
        worst, total, count = max(worst, float(error.max())), total + float(error.sum()), count + error.size
    a, b = softmax(fp32.logits(texts)), softmax(shipped.logits(texts))
    agreement = 100 * float((a.argmax(1) == b.argmax(1)).mean())
    return Parity(worst, total / count, len(texts), tuple(cases), float(np.abs(a - b).max()), agreement)
