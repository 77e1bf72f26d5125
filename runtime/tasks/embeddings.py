"""Embeddings: a vector a text, near those of texts that mean alike; judged by similarity scores or by retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Answer, Floats, Head, Outputs, Statistics, Targets, Task
from attar.runtime.tasks.regression import finite
from attar.runtime.tokenizer import Encoded, Text, Tokenizer

READS: Mapping[str, Literal["first", "mean", "max"]] = {"mean": "mean", "cls": "first", "max": "max"}
CHUNK = 1000
"""Texts that retrieval compares with all others at a time: a bound on memory, some 13 MB for each 1,000 texts."""


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """One answer, float32 (D,); numpy takes it for an array. `truncated`: the text was longer than the model reads."""

    values: Floats
    truncated: bool = False

    def __repr__(self) -> str:
        first = ", ".join(f"{v:.3f}" for v in self.values[:3].tolist())
        more = ", ..." if len(self.values) > 3 else ""
        cut = ", truncated=True" if self.truncated else ""
        return f"Vector([{first}{more}], {len(self.values)} dimensions{cut})"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def similarity(self, other: Vector) -> float:
        """Cosine of the angle between the two, -1 to 1; 0 where one of them is all zeros."""
        if len(self.values) != len(other.values):
            raise DataError(
                f"vectors of {len(self.values)} and {len(other.values)} dimensions cannot be compared; "
                "take both from one model with one setting of truncate"
            )
        found = float(unit(self.values[None])[0] @ unit(other.values[None])[0])
        return min(1.0, max(-1.0, found))


@dataclass(frozen=True)
class Embedding(Task):
    """The network pools and normalises; what is left to do here is to shorten its vectors.

    Attributes:
        dimensions: width of the network's vectors.
        max_length: tokens.
        pooling: the states that make the vector: their mean, the first one, or their maximum.
        truncate: how many leading dimensions are kept; 0: all. They are worth most where training saw to it
            (Kusupati et al. 2022, "Matryoshka Representation Learning", section 3).
        normalise: vectors have length 1, shortened ones too.
        prompt: what every text is prefixed with, such as "query: ".
        judged_by: the measure of the gate: `Spearman` where test examples are pairs with a score, `recall@1` where
            they are single texts with a class.

    Raises:
        SettingsError: an unknown or impossible setting.
    """

    dimensions: int
    max_length: int = 128
    pooling: Literal["mean", "cls", "max"] = "mean"
    truncate: int = 0
    normalise: bool = True
    prompt: str = ""
    judged_by: Literal["Spearman", "recall@1"] = "recall@1"

    kind = "embeddings"
    options = ("truncate", "prompt")

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise SettingsError(f"an embedding has at least 1 dimension, not {self.dimensions}")
        if self.pooling not in READS:
            raise SettingsError(f"pooling is one of {', '.join(READS)}, not {self.pooling!r}")
        if self.judged_by not in ("Spearman", "recall@1"):
            raise SettingsError(f"judged_by is Spearman or recall@1, not {self.judged_by!r}")
        truncate: Any = self.truncate  # users set it, and the prompt, at load time
        if type(truncate) is not int or not 0 <= truncate <= self.dimensions:
            raise SettingsError(
                f"truncate must be between 1 and the model's {self.dimensions} dimensions, or 0 for all of them, "
                f"not {truncate!r}"
            )
        prompt: Any = self.prompt
        if not isinstance(prompt, str):
            raise SettingsError(f"prompt must be a string, not {prompt!r}")

    @property
    def heads(self) -> tuple[Head, ...]:
        return (Head("sentence_embedding", self.dimensions, READS[self.pooling], "vector", unit=self.normalise),)

    @property
    def gates(self) -> tuple[str, ...]:
        return (self.judged_by,)

    def gates_on(self, texts: Sequence[Text]) -> tuple[str, ...]:
        return ("Spearman",) if _are_pairs(texts) else ("recall@1",)

    def inputs(self, texts: Sequence[Text]) -> tuple[Text, ...]:
        """The texts of scored pairs one by one, each once; single texts as they are."""
        return singles(texts) if any(not isinstance(text, str) for text in texts) else tuple(texts)

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoded:
        """One row a text, prompt included. Single texts only: the two of a pair are embedded one by one."""
        prompt = self.prompt
        if not all(isinstance(text, str) for text in texts):
            raise DataError("an embedding is of one text; give the two texts of a pair one by one")
        return tokenizer.encode([f"{prompt}{text}" for text in texts] if prompt else texts)

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Any]:
        """A `Vector` a text, from vectors (N, dimensions)."""
        vectors: Floats = np.asarray(outputs["sentence_embedding"])
        if 0 < self.truncate < self.dimensions:
            # A copy: a view would keep the full width in memory.
            kept = vectors[:, : self.truncate].copy()
            vectors = unit(kept) if self.normalise else kept
        return [Vector(vector, cut) for vector, cut in zip(vectors, encoded.truncated, strict=True)]

    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        """Class ids int64 (N,): equal for equal labels, numbered in their sorted order within this call."""
        return {"sentence_embedding": _ids(_classes(labels))}

    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[Any, ...]:
        """For pairs of texts finite floats, how similar they are; for single texts the names of their classes."""
        return finite(labels) if _are_pairs(texts) else _classes(labels)

    def statistics(self, answer: Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        """For pairs `Spearman` float64 (N, 2): cosine and score. For single texts `recall@1` and `recall@10` bool (M,).

        Recall is retrieval among the texts themselves: whether one of the 1 or 10 nearest others, by cosine, is of
        the same class; another class at the same distance counts as nearer. A text whose class occurs once cannot
        be found: it is only something to confuse others with, so M may be less than N.

        Raises:
            DataError: every class occurs once, or labels and texts do not go together.
        """
        names = self.named(labels, texts)
        if not _are_pairs(texts):
            ids = _ids(names)
            asked = np.flatnonzero(np.bincount(ids)[ids] > 1)
            if not len(asked):
                raise DataError("no class has two texts, so there is nothing to find; give several texts of each class")
            return _recall(unit(_matrix(answer(texts))), ids, asked)
        vectors = unit(_matrix(answer([part for pair in texts for part in pair])))
        cosines = (vectors[0::2] * vectors[1::2]).sum(axis=1)
        return {"Spearman": np.column_stack([cosines.astype(np.float64), np.array(names)])}

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "dimensions": self.dimensions,
            "max_length": self.max_length,
            "pooling": self.pooling,
            "truncate": self.truncate,
            "normalise": self.normalise,
            "prompt": self.prompt,
            "judged_by": self.judged_by,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            int(record["dimensions"]),
            int(record["max_length"]),
            pooling=record["pooling"],
            truncate=int(record["truncate"]),
            normalise=bool(record["normalise"]),
            prompt=record["prompt"],
            judged_by=record["judged_by"],
        )


def singles(texts: Sequence[Text]) -> tuple[str, ...]:
    """Single texts, and those of pairs one by one, in their order and each once."""
    parts = ((text,) if isinstance(text, str) else text for text in texts)
    return tuple(dict.fromkeys(part for each in parts for part in each))


def unit(vectors: Floats) -> Floats:
    """Each row (N, D) at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _recall(vectors: Floats, ids: NDArray[np.int64], asked: NDArray[np.int64]) -> Statistics:
    """Leave-one-out retrieval of the rows `asked` (M,), from vectors (N, D) of length 1 and class ids (N,)."""
    ahead = np.empty(len(asked), dtype=np.int64)
    for start in range(0, len(asked), CHUNK):
        rows = asked[start : start + CHUNK]
        near = vectors[rows] @ vectors.T
        near[np.arange(len(rows)), rows] = -np.inf
        same = ids[rows, None] == ids
        found = np.where(same, near, -np.inf).max(axis=1, keepdims=True)
        # "Not further" rather than "nearer": vectors that are all equal, or not numbers, find nothing.
        ahead[start : start + CHUNK] = (~(near < found) & ~same).sum(axis=1)
    return {"recall@1": ahead < 1, "recall@10": ahead < 10}


def _ids(classes: Sequence[str]) -> NDArray[np.int64]:
    index = {name: i for i, name in enumerate(sorted(set(classes)))}
    return np.array([index[name] for name in classes], dtype=np.int64)


def _matrix(answers: Sequence[Vector]) -> Floats:
    return np.stack([answer.values for answer in answers])


def _are_pairs(texts: Sequence[Text]) -> bool:
    kinds = {not isinstance(text, str) for text in texts}
    if len(kinds) > 1:
        raise DataError("some examples are single texts and some are pairs; give one kind alone")
    return kinds == {True}


def _classes(labels: Sequence[Any]) -> tuple[str, ...]:
    for label in labels:
        if not isinstance(label, str):
            raise DataError(
                f"label {label!r} is not the name of a class: scores of pairs are for evaluation; "
                "for fine-tuning give single texts, each with the name of its class"
            )
    return tuple(labels)
