"""Regression: a number for a text or a pair, such as a rating or how similar two texts are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Answer, Head, Outputs, Statistics, Targets, Task
from attar.runtime.tasks.classification import check_texts
from attar.runtime.tokenizer import Encoded, Text


@dataclass(frozen=True, slots=True)
class Score:
    """One answer, in the unit of the training labels; `truncated`: the text was longer than the model reads."""

    value: float
    truncated: bool = False

    def __repr__(self) -> str:
        return f"Score({self.value:.4g}{', truncated=True' if self.truncated else ''})"


@dataclass(frozen=True)
class Regression(Task):
    """The network gives z, the answer is mean + scale * z: training aims at numbers of order 1 in any unit.

    Attributes:
        max_length: tokens.
        pair: an input is two texts.
        mean: of the training labels, in their unit.
        scale: their standard deviation, in their unit.

    Raises:
        SettingsError: mean is not finite, or scale not finite and above 0.
    """

    max_length: int = 128
    pair: bool = False
    mean: float = 0.0
    scale: float = 1.0

    kind = "regression"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.scale) and self.scale > 0):
            raise SettingsError(
                f"a regression needs a finite mean and a scale above 0, not mean {self.mean} and scale {self.scale}"
            )

    @classmethod
    def from_labels(cls, labels: Sequence[Any], texts: Sequence[Text], max_length: int = 128) -> Self:
        """The task of training examples, with the mean and the (population) standard deviation of their labels.

        Raises:
            DataError: a label is not a number, all are the same, or single texts and pairs are mixed.
        """
        values = np.array(finite(labels), dtype=np.float64)
        scale = float(values.std()) if len(values) else 0.0
        # Not by the deviation alone: that of equal numbers may be a rounding error above 0.
        if scale == 0 or values.min() == values.max():
            raise DataError(
                f"the {len(values)} labels are all the same number, which leaves nothing to learn; "
                "give examples with different ones"
            )
        pair = not isinstance(texts[0], str)
        check_texts(texts, pair)
        return cls(max_length, pair, float(values.mean()), scale)

    @property
    def heads(self) -> tuple[Head, ...]:
        return (Head("logits", 1, "first", "value"),)

    @property
    def gates(self) -> tuple[str, ...]:
        return ("Spearman",)

    @property
    def pairs(self) -> bool:
        return self.pair

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Any]:
        """A `Score` a text, from z (N, 1)."""
        column = np.asarray(outputs["logits"])[:, 0].tolist()
        mean, scale = self.mean, self.scale
        return [Score(mean + scale * z, cut) for z, cut in zip(column, encoded.truncated, strict=True)]

    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        """The labels in standard deviations from the mean: float32 (N, 1)."""
        values = np.array(finite(labels), dtype=np.float64)
        return {"logits": ((values - self.mean) / self.scale).astype(np.float32)[:, None]}

    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[Any, ...]:
        """Finite floats; `DataError` for others, and for single texts where the task reads pairs, or the reverse."""
        check_texts(texts, self.pair)
        return finite(labels)

    def statistics(self, answer: Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        """`Spearman` float64 (N, 2): the predicted value and the true one, whose ranks are to agree."""
        predicted = [score.value for score in answer(texts)]
        return {"Spearman": np.column_stack([np.array(predicted, dtype=np.float64), np.array(finite(labels))])}

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "max_length": self.max_length,
            "pair": self.pair,
            "mean": self.mean,
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(int(record["max_length"]), bool(record["pair"]), float(record["mean"]), float(record["scale"]))


LARGEST = float(np.finfo(np.float32).max)


def finite(labels: Sequence[Any]) -> tuple[float, ...]:
    """Numbers, or strings of them, as floats; `DataError` for one that is not a number or beyond float32 (3.4e38)."""
    values = []
    for label in labels:
        try:
            value = math.nan if isinstance(label, bool) else float(label)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not abs(value) <= LARGEST:
            raise DataError(f"label {label!r} is not a finite number; correct it, or train a classifier to learn names")
        values.append(value)
    return tuple(values)
