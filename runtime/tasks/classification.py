"""Single-label text classification: logits to a label and its probability; judged by accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import BundleError, DataError

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Classification:
    """One answer. `score` is the label's probability; `truncated`: the text was longer than the model reads."""

    label: str
    score: float
    scores: dict[str, float]
    truncated: bool = False

    def __repr__(self) -> str:
        cut = ", truncated=True" if self.truncated else ""
        return f"Classification(label={self.label!r}, score={self.score:.2f}{cut})"


def softmax(logits: Floats) -> Floats:
    """Row-wise softmax, (N, C) -> (N, C)."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class TextClassification:
    """The task: its labels in the order of the logits, and how many tokens it was trained to read."""

    labels: tuple[str, ...]
    max_length: int = 128

    kind = "text-classification"
    metric = "accuracy"

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise DataError(f"a classifier needs at least two different labels, got {list(self.labels)}")

    def answers(self, logits: Floats, truncated: Sequence[bool]) -> list[Classification]:
        """Typed answers from logits (N, C)."""
        probabilities = softmax(logits)
        best = probabilities.argmax(axis=-1).tolist()
        rows = probabilities.tolist()
        labels = self.labels
        return [
            Classification(labels[b], row[b], dict(zip(labels, row, strict=True)), cut)
            for b, row, cut in zip(best, rows, truncated, strict=True)
        ]

    def ids(self, labels: Sequence[str]) -> NDArray[np.int64]:
        """Label names to class indices (N,); a label unknown to the task is a `DataError`."""
        index = {name: i for i, name in enumerate(self.labels)}
        unknown = sorted(set(labels) - index.keys())
        if unknown:
            raise DataError(
                f"label {unknown[0]!r} was never seen in training (known: {', '.join(self.labels)}); "
                "correct it in the data or train with examples of it"
            )
        return np.array([index[name] for name in labels], dtype=np.int64)

    def correct(self, logits: Floats, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which examples are right: logits (N, C), targets (N,) -> (N,)."""
        return np.asarray(logits.argmax(axis=-1) == targets)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "labels": list(self.labels), "max_length": self.max_length}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> TextClassification:
        if record.get("kind") != TextClassification.kind:
            raise BundleError(f"task {record.get('kind')!r} is unknown to this version of attar; upgrade attar")
        return TextClassification(tuple(record["labels"]), int(record["max_length"]))
