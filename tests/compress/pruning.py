"""What the tests of pruning share: texts, a student with units that nothing reads, and a context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Targets
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from tests.models import by_size, quiet, sentences

TRAIN = sentences(48, seed=7)
TEXTS = TRAIN.texts


def silenced(student: Student) -> Student:
    """Nothing reads the second of four heads of 8 of the middle layer, nor the sixth neuron of the first."""
    silent = student.copy()
    with torch.no_grad():
        silent.encoder.layers[1].output.weight[:, 8:16] = 0
        silent.encoder.layers[0].ffn_out.weight[:, 5] = 0
    return silent


def context(train: Examples = TRAIN, logits: Any = None, teacher: Path = Path("nowhere")) -> Context:
    """A teacher that says random things, or `logits`, and a clock that counts weights."""
    said = np.random.default_rng(0).standard_normal((len(train.texts), 2)).astype(np.float32)

    def supervision(student: Student, states: Sequence[str]) -> Supervision:
        encoded = student.encode(train.texts)
        targets = Targets(
            encoded, np.cumsum([0, *map(len, encoded.ids)]), {"logits": said if logits is None else logits}, {}
        )
        return supervise(student, student.tokenizer, targets, train.texts)

    nothing = Examples((), None, "nothing")
    return Context(
        train, nothing, train, supervision, lambda a, b: Ratio(1.0, 1.0, 1.0, 2), lambda s: 0.0,
        lambda s: (s.encode(TEXTS), s.outputs(s.encode(TEXTS))), teacher, quiet, by_size,
    )  # fmt: skip
