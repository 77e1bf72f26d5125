"""Token classification: logits of tokens to entities, named spans of the text; judged by entity F1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import IGNORED, Answer, Floats, Head, Outputs, Statistics, Targets, Task, strings
from attar.runtime.tasks.classification import check_texts
from attar.runtime.tasks.spans import (
    Span,
    checked,
    covering,
    most_context,
    pipeline_tag,
    run_tags,
    split_tag,
    starts_of_rows,
    trimmed,
)
from attar.runtime.tasks.tokens_decode import AGGREGATIONS, Aggregation, Decoder, Entity
from attar.runtime.tokenizer import Encoded, Text, Tokenizer, Window, Windows

__all__ = ["AGGREGATIONS", "Aggregation", "Entity", "TokenClassification"]


@dataclass(frozen=True)
class TokenClassification(Task):
    """The task: the tags of the tokens, and how entities are made of them. Long texts are read in windows.

    Each token's scores are taken from the window in which it has most context; entities are made once, of the whole
    text. With `none`, `simple`, `first`, `average` and `max` they are those that transformers'
    TokenClassificationPipeline makes of the same logits, less finds without a character. Like there, tokens that
    are bytes of one character may be finds of their own, a find may begin with the space that its token holds, and
    BILOU and BIOES are not understood.

    `word` is for models trained on texts split at whitespace: a word takes the scores of its first token, and tags of
    words are read by `tag_runs`, in BIO, BILOU and BIOES alike. Words of which the tokenizer keeps nothing are skipped.

    Attributes:
        tags: names, in the order of the logits: O, B-city, I-city; BILOU and BIOES; or plain ones, as for parts of
            speech. Spans of plain tags that follow each other directly are one.
        max_length: tokens of a window.
        stride: tokens that two windows of a long text share; at most half a window.
        aggregation: how entities are made of tokens.

    Raises:
        DataError: tags are too few or repeat.
        SettingsError: a negative stride or an unknown aggregation.
    """

    tags: tuple[str, ...]
    max_length: int = 128
    stride: int = 32
    aggregation: Aggregation = "simple"

    kind = "token-classification"
    options = ("aggregation",)

    def __post_init__(self) -> None:
        if len(self.tags) < 2 or len(set(self.tags)) != len(self.tags):
            raise DataError(f"a tagger needs at least two different tags, got {list(self.tags)}")
        if self.aggregation not in AGGREGATIONS:
            raise SettingsError(f"aggregation {self.aggregation!r} is unknown; known: {', '.join(AGGREGATIONS)}")
        if self.stride < 0:
            raise SettingsError(f"stride must be at least 0 tokens, not {self.stride}")

    @property
    def heads(self) -> tuple[Head, ...]:
        return (Head("logits", len(self.tags), "tokens", "classes"),)

    @property
    def gates(self) -> tuple[str, ...]:
        return ("entity F1",)

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The types of spans that the tags tell apart, sorted."""
        return tuple(sorted({split_tag(tag)[1] for tag in self.tags} - {""}))

    def continuations(self, head: str) -> NDArray[np.int64]:
        """B-city goes on with I-city, U-city with L-city and S-city with E-city; any other tag with itself."""
        after = {"B-": "I-", "U-": "L-", "S-": "E-"}
        names = [after.get(prefix, prefix) + type_ for prefix, type_ in map(split_tag, self.tags)]
        return np.array([self._decoder.index.get(name, i) for i, name in enumerate(names)], dtype=np.int64)

    def reader(self, source: bytes, pad_id: int) -> Tokenizer:
        return Tokenizer(source, self.max_length, pad_id, stride=self._shared)

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoded:
        """As many rows a text as it takes to read all of it; the tokenizer is one of `reader`."""
        return tokenizer.windows(texts)

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Any]:
        """Entities of each text in their order, from logits (T, C) a row."""
        logits = cast(list[Floats], outputs["logits"])
        if self.aggregation == "word" and isinstance(encoded.windows, Windows):
            return self._decoder.words(cast(Sequence[str], encoded.texts), encoded.windows, logits)
        return [self._decoder.entities(text, windows, logits[rows]) for text, windows, rows in _by_text(encoded)]

    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        """Tags int64 (T,) a row: tokens that share characters with a span have its tags, those of the text's windows
        alike; special tokens, and those outside all spans where there is no tag O, are IGNORED."""
        rows: list[NDArray[np.int64]] = []
        for (_, windows, _), spans in zip(_by_text(encoded), labels, strict=True):
            tags = self._tags(np.concatenate([w.offsets for w in windows])[most_context(windows, self._shared)], spans)
            for window, start in zip(windows, starts_of_rows(windows, self._shared), strict=True):
                own = np.flatnonzero(window.sequence >= 0)
                row = np.full(len(window.sequence), IGNORED, dtype=np.int64)
                row[own] = tags[start : start + len(own)]
                rows.append(row)
        return {"logits": rows}

    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[Any, ...]:
        """Spans of each text, sorted: tuples (start, end, type), in characters.

        Raises:
            DataError: a span that does not lie in its text, holds only whitespace, overlaps another one, or has a
                type that no tag stands for.
        """
        check_texts(texts, pair=False)
        return tuple(
            checked(spans, text, self.types, f"example {number}")
            for number, (spans, text) in enumerate(zip(labels, cast(Sequence[str], texts), strict=True), 1)
        )

    def statistics(self, answer: Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        """`entity F1` int64 (N, 3): entities that are right, given, and true.

        One is right if start, end and type are; whitespace around it does not count. On words joined by spaces and
        with aggregation `word` this is what seqeval counts, strict, in scheme IOB2 (Nakayama 2018, seqeval). With
        `none`, the tokens given are first grouped as by `simple`.
        """
        # The pipeline cuts plain tags at their first hyphen: NN-HL becomes HL.
        shown = {split_tag(tag)[1]: pipeline_tag(tag)[2] for tag in self.tags if self.aggregation != "word"}
        counts = []
        for text, entities, spans in zip(texts, answer(texts), self.named(labels, texts), strict=True):
            assert isinstance(text, str)  # or `named` has refused it
            given = {trimmed(span, text) for span in self._decoder.spans(text, entities)}
            true = {trimmed((start, end, shown.get(type_, type_)), text) for start, end, type_ in spans}
            counts.append((len(given & true), len(given), len(true)))
        return {"entity F1": np.array(counts, dtype=np.int64).reshape(-1, 3)}

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "tags": list(self.tags),
            "max_length": self.max_length,
            "stride": self.stride,
            "aggregation": self.aggregation,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(strings(record["tags"]), int(record["max_length"]), int(record["stride"]), record["aggregation"])

    @property
    def _shared(self) -> int:
        """Tokens that two windows share: with the usual two special tokens, at most half of what a window holds."""
        return max(0, min(self.stride, (self.max_length - 2) // 2))

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.tags, self.aggregation, self._shared)

    def _tags(self, offsets: NDArray[np.int32], spans: Sequence[Span]) -> NDArray[np.int64]:
        """The tags (T,) that mark the spans, given the characters (T, 2) of a text's tokens."""
        tags = np.full(len(offsets), self._decoder.outside, dtype=np.int64)
        if not spans:
            return tags
        index = self._decoder.index
        starts, ends, types = zip(*sorted(spans), strict=True)
        done = 0
        for first, last, type_ in zip(*covering(offsets, np.array(starts), np.array(ends)), types, strict=True):
            begin = max(int(first), done)  # a token of two spans is the earlier one's
            if begin < last:
                tags[begin:last] = [index[tag] for tag in run_tags(int(last) - begin, type_, index)]
                done = int(last)
        return tags


def _by_text(encoded: Encoded) -> Iterator[tuple[str, list[Window], slice]]:
    """Each text with its windows, and which rows these are."""
    assert encoded.windows is not None and encoded.texts is not None  # `encode` makes both
    start = 0
    for number, group in groupby(encoded.windows, key=lambda window: window.text):
        windows = list(group)
        yield cast(str, encoded.texts[number]), windows, slice(start, start + len(windows))
        start += len(windows)
