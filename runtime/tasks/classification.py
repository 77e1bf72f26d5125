"""Text classification, of one label a text or of any number of them, of single texts or pairs."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from heapq import nlargest
from numbers import Real
from typing import Any, Self

import numpy as np

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Answer, Floats, Head, Outputs, Statistics, Targets, Task, sigmoid, softmax
from attar.runtime.tokenizer import Encoded, Text

__all__ = ["Classification", "Floats", "Labels", "TextClassification", "check_texts", "softmax"]

SHOWN = 10
"""How many names a message lists."""
COLDEST, HOTTEST = 0.001, 1000.0
"""Temperatures by which no logits overflow float32; useful ones lie between 0.5 and 5."""


class Scores(Mapping[str, float]):
    """Probabilities by label, read-only; `dict(scores)` is a plain dict. Nothing is made before it is asked for:
    with many labels, a dict for every answer takes longer than all else around a small network."""

    __slots__ = ("_names", "_row")

    def __init__(self, names: Sequence[str], row: Floats) -> None:
        self._names, self._row = names, row

    def __getitem__(self, name: str) -> float:
        return self._plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def items(self) -> ItemsView[str, float]:
        return self._plain().items()

    def values(self) -> ValuesView[float]:
        return self._plain().values()

    def __repr__(self) -> str:
        return repr(self._plain())

    def _plain(self) -> dict[str, float]:
        return dict(zip(self._names, self._row.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class Classification:
    """One answer. `score` is the label's probability; `truncated`: the text was longer than the model reads."""

    label: str
    score: float
    scores: Mapping[str, float]
    truncated: bool = False

    def __repr__(self) -> str:
        cut = ", truncated=True" if self.truncated else ""
        return f"Classification(label={self.label!r}, score={self.score:.2f}{cut})"


@dataclass(frozen=True, slots=True)
class Labels:
    """One multi-label answer: the labels that reach their thresholds, in the task's order; `scores` has all of them.

    The scores are probabilities of each label by itself, so they do not sum to 1.
    """

    labels: tuple[str, ...]
    scores: Mapping[str, float]
    truncated: bool = False

    def __repr__(self) -> str:
        held = ", ".join(f"{name!r}: {self.scores[name]:.2f}" for name in self.labels)
        cut = ", truncated=True" if self.truncated else ""
        return f"Labels({{{held}}}{cut})"


@dataclass(frozen=True)
class TextClassification(Task):
    """The task: its labels in the order of the logits, and how many tokens it was trained to read.

    Attributes:
        labels: names, in the order of the logits.
        max_length: tokens.
        multi_label: each text has any number of labels, none included; else exactly one.
        pair: an input is two texts.
        thresholds: for multi-label, the probability from which on each label is given; empty: 0.5 each.
        temperature: what logits are divided by before they become probabilities, so that these can be calibrated
            after training (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2). The likeliest
            label does not depend on it.
        top_k: how many of the scores an answer holds, the highest first; 0 for all, in the order of the labels.

    Raises:
        DataError: labels are too few or repeat.
        SettingsError: impossible thresholds, temperature or top_k.
    """

    labels: tuple[str, ...]
    max_length: int = 128
    multi_label: bool = False
    pair: bool = False
    thresholds: tuple[float, ...] = ()
    temperature: float = 1.0
    top_k: int = 0

    kind = "text-classification"
    options = ("thresholds", "temperature", "top_k")

    def __post_init__(self) -> None:
        if len(self.labels) < (1 if self.multi_label else 2) or len(set(self.labels)) != len(self.labels):
            least = "one label, and each once" if self.multi_label else "two different labels"
            raise DataError(f"a classifier needs at least {least}, got {list(self.labels)}")
        given: Any = self.thresholds  # users set the options at load time, so they may be anything
        thresholds = tuple(_number(t) for t in given) if isinstance(given, list | tuple) else (math.nan,)
        if not all(0 <= t <= 1 for t in thresholds):
            raise SettingsError(f"thresholds must be a list of numbers between 0 and 1, not {given!r}")
        if thresholds and not self.multi_label:
            raise SettingsError("thresholds are for multi-label classifiers; this one gives the likeliest label")
        if len(thresholds) not in (0, len(self.labels)):
            raise SettingsError(f"{len(thresholds)} thresholds for {len(self.labels)} labels; give one for each label")
        temperature = _number(self.temperature)
        if not COLDEST <= temperature <= HOTTEST:
            raise SettingsError(f"temperature must be between {COLDEST:g} and {HOTTEST:g}, not {self.temperature!r}")
        if type(self.top_k) is not int or self.top_k < 0:
            raise SettingsError(f"top_k must be a number of labels, 0 for all of them, not {self.top_k!r}")
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "temperature", temperature)

    @classmethod
    def from_labels(cls, labels: Sequence[Any], texts: Sequence[Text], max_length: int = 128) -> Self:
        """The task of training examples: multi-label if any label is a tuple of names, pairs if the texts are.

        Raises:
            DataError: there is nothing to tell apart, a label is not a name, or single texts and pairs are mixed.
        """
        several = any(isinstance(label, list | tuple) for label in labels)
        names = sorted({name for label in labels for name in _parts(label, several)})
        if len(names) < (1 if several else 2):
            least = "one" if several else "two"
            raise DataError(f"the data has {len(names)} label(s); a classifier needs examples of at least {least}")
        pair = not isinstance(texts[0], str)
        check_texts(texts, pair)
        return cls(tuple(names), max_length, several, pair)

    @property
    def heads(self) -> tuple[Head, ...]:
        return (Head("logits", len(self.labels), "first", "labels" if self.multi_label else "classes"),)

    @property
    def gates(self) -> tuple[str, ...]:
        return ("micro F1",) if self.multi_label else ("accuracy",)

    @property
    def pairs(self) -> bool:
        return self.pair

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Any]:
        """A `Classification` a text, or `Labels` for multi-label, from logits (N, C)."""
        logits: Floats = np.asarray(outputs["logits"])
        cooled = logits if self.temperature == 1.0 else logits / self.temperature
        labels = self.labels
        if self.multi_label:
            limits = self.thresholds or (0.5,) * len(labels)
            return [
                Labels(
                    tuple(name for name, p, least in zip(labels, row.tolist(), limits, strict=True) if p >= least),
                    self._scores(row),
                    cut,
                )
                for row, cut in zip(sigmoid(cooled), encoded.truncated, strict=True)
            ]
        # Of the logits: two probabilities may round to the same float.
        best = logits.argmax(axis=-1)
        rows = softmax(cooled)
        likeliest = rows[np.arange(len(rows)), best].tolist()
        return [
            Classification(labels[b], score, self._scores(row), cut)
            for b, score, row, cut in zip(best.tolist(), likeliest, rows, encoded.truncated, strict=True)
        ]

    def _scores(self, row: Floats) -> Scores:
        # A copy, so that an answer that is kept does not keep those of its whole batch.
        if not self.top_k:
            return Scores(self.labels, row.copy())
        chosen = nlargest(self.top_k, range(len(row)), key=row.tolist().__getitem__)
        return Scores([self.labels[i] for i in chosen], row[chosen])

    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        """Class indices int64 (N,); for multi-label float32 (N, C) of 0 and 1."""
        index = {name: i for i, name in enumerate(self.labels)}
        names = self._names(labels)
        if not self.multi_label:
            return {"logits": np.array([index[name] for (name,) in names], dtype=np.int64)}
        held = np.zeros((len(names), len(index)), dtype=np.float32)
        for row, chosen in zip(held, names, strict=True):
            row[[index[name] for name in chosen]] = 1
        return {"logits": held}

    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[Any, ...]:
        """Names of known labels: a string each, or for multi-label a tuple in the task's order, which may be empty.

        Where no label is a known name but all are class ids ("0", "1", ...), these are translated.

        Raises:
            DataError: a label that the task does not know, or single texts where it reads pairs, or the reverse.
        """
        check_texts(texts, self.pair)
        names = self._names(labels)
        return tuple(names) if self.multi_label else tuple(name for (name,) in names)

    def statistics(self, answer: Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        """`accuracy` bool (N,); or, for multi-label, `micro F1` int64 (N, 3) and `exact match` bool (N,).

        The three counts are of labels that are right, given, and true: F1 is 2 right / (given + true), of the sums.
        """
        names = self._names(labels)
        answers = answer(texts)
        if not self.multi_label:
            return {"accuracy": np.array([a.label == n for a, (n,) in zip(answers, names, strict=True)], dtype=bool)}
        both = [(set(a.labels), set(n)) for a, n in zip(answers, names, strict=True)]
        counts = [(len(given & true), len(given), len(true)) for given, true in both]
        return {
            "micro F1": np.array(counts, dtype=np.int64).reshape(-1, 3),
            "exact match": np.array([given == true for given, true in both], dtype=bool),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "multi_label": self.multi_label,
            "pair": self.pair,
            "thresholds": list(self.thresholds),
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Bundles of the first version have labels and length alone."""
        return cls(
            tuple(record["labels"]),
            int(record["max_length"]),
            multi_label=bool(record.get("multi_label", False)),
            pair=bool(record.get("pair", False)),
            thresholds=tuple(record.get("thresholds", ())),
            temperature=record.get("temperature", 1.0),
        )

    def _names(self, labels: Sequence[Any]) -> list[tuple[str, ...]]:
        """The known names that each label holds, in the task's order and without repeats."""
        parts = [_parts(label, self.multi_label) for label in labels]
        given = {name for names in parts for name in names}
        known = {name: i for i, name in enumerate(self.labels)}
        ids = {str(i): i for i in range(len(known))}
        if given.isdisjoint(known) and given <= ids.keys():
            known = ids
        unknown = sorted(given - known.keys())
        if unknown:
            listed = ", ".join(self.labels[:SHOWN]) + (", ..." if len(self.labels) > SHOWN else "")
            raise DataError(
                f"label {unknown[0]!r} was never seen in training (known: {listed}); "
                "correct it in the data or train with examples of it"
            )
        return [tuple(self.labels[i] for i in sorted({known[name] for name in names})) for names in parts]


def check_texts(texts: Sequence[Text], pair: bool) -> None:
    """`DataError` unless all are pairs, or with `pair` false, all are single texts."""
    for number, text in enumerate(texts, 1):
        if isinstance(text, str) == pair:
            found, wanted = ("a single text", "pairs of texts") if pair else ("a pair of texts", "single texts")
            raise DataError(f"example {number} is {found}, but the task reads {wanted}; give it {wanted} throughout")


def _parts(label: object, several: bool) -> tuple[str, ...]:
    """The names of one label as a user gives it."""
    parts = tuple(label) if several and isinstance(label, list | tuple) else (label,)
    for part in parts:
        if not isinstance(part, str):
            wanted = "names of classes" if several else "the name of one class"
            raise DataError(f"label {label!r} is not {wanted}; give {wanted} for each text")
    return parts


def _number(value: object) -> float:
    """The value as a float, numpy's numbers too; NaN for what is no number."""
    return float(value) if isinstance(value, Real) else math.nan
