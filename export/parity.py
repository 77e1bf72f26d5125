"""Does the exported file compute what PyTorch computes? Real texts, edge lengths, batches of 1 and 32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.export.departure import departure
from attar.export.onnx import to_files
from attar.runtime.errors import ParityError
from attar.runtime.model import Model
from attar.runtime.tasks.base import Outputs, activate
from attar.runtime.tokenizer import Text

TOLERANCE = 1e-4
"""Largest difference in raw fp32 outputs, relative to the largest of them (at least 1)."""


@dataclass(frozen=True)
class Parity:
    """fp32 lowering against PyTorch, in raw outputs; and the shipped scheme against fp32, in what outputs mean.

    `scheme_max_probability`: largest difference in probability (or vector, or number); `scheme_agreement`: in how many
    rows or tokens (%) the largest output is the same.
    """

    max_abs: float
    mean_abs: float
    texts: int
    checks: tuple[str, ...]
    scheme_max_probability: float
    scheme_agreement: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"checks": list(self.checks)}


def edge_texts(student: Student) -> dict[str, list[Text]]:
    """Inputs at the edges: no text at all, one token, exactly the longest, and longer than the model reads."""
    word, longest = "a ", student.task.max_length - 2
    cases = {
        "length 1": ["", "a"],
        "longest": [word * longest],
        "truncated": [word * (3 * student.task.max_length)],
        "mixed lengths": ["a", word * longest, word * 7],
    }
    if student.task.pairs:
        return {name: [("a", text) for text in texts] for name, texts in cases.items()}
    return {name: list(texts) for name, texts in cases.items()}


def check(student: Student, texts: Sequence[Text]) -> Parity:
    """Compares; raises `ParityError` naming the check that fails, by how much, and the node where it begins."""
    plain = replace(student, plan=None)
    files = to_files(plain)
    fp32 = in_memory(plain, model=files)
    shipped = fp32 if student.plan is None else in_memory(student)
    cases = {"batch 1": list(texts[:1]), "batch 32": list(texts[:32]), "real texts": list(texts)}
    cases |= edge_texts(student)
    worst, total, count = 0.0, 0.0, 0
    for name, inputs in cases.items():
        encoded = student.encode(inputs)
        expected, found = flat(student.outputs(encoded)), flat(fp32.outputs(encoded))
        for head in student.task.heads:
            error = np.abs(found[head.name] - expected[head.name])
            relative = float(error.max() / max(1.0, np.abs(expected[head.name]).max()))
            if not relative <= TOLERANCE:
                where = departure(student, files, encoded, TOLERANCE)
                raise ParityError(
                    f"{name}: the exported graph departs from PyTorch by {relative:.2g} (at most {TOLERANCE}). {where}"
                )
            worst, total, count = max(worst, float(error.max())), total + float(error.sum()), count + error.size
    difference, agreement = compare(student, fp32, shipped, texts)
    return Parity(worst, total / count, len(texts), tuple(cases), difference, agreement)


def compare(student: Student, a: Model, b: Model, texts: Sequence[Text]) -> tuple[float, float]:
    """Largest difference of activated outputs, and how often (%) the largest output is the same."""
    encoded = student.encode(texts)
    mine, theirs = a.outputs(encoded), b.outputs(encoded)
    worst, same, count = 0.0, 0, 0
    for head in student.task.heads:
        for x, y in zip(mine[head.name], theirs[head.name], strict=True):
            p, q = (activate(head, np.atleast_2d(v)) for v in (x, y))
            worst = max(worst, float(np.abs(p - q).max()))
            axis = 0 if head.objective == "span" else 1
            same += int((p.argmax(axis) == q.argmax(axis)).sum())
            count += p.shape[1 - axis]
    return worst, 100 * same / count


def flat(outputs: Outputs) -> dict[str, NDArray[np.float32]]:
    """Outputs with the tokens of all rows one after another."""
    return {k: v if isinstance(v, np.ndarray) else np.concatenate(v) for k, v in outputs.items()}
