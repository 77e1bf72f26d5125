"""Token classification: logits of tokens to entities, named spans of the text; judged by entity F1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import IGNORED, Answer, Floats, Head, Outputs, Statistics, Targets, Task, softmax
from attar.runtime.tasks.classification import check_texts
from attar.runtime.tasks.spans import (
    OUTSIDE,
    Indices,
    Span,
    checked,
    covering,
    first_tokens,
    most_context,
    pipeline_tag,
    run_tags,
    split_tag,
    starts_of_rows,
    tag_runs,
    trimmed,
    word_scores,
    words_of,
)
from attar.runtime.tokenizer import Encoded, Text, Tokenizer, Window, Windows

Aggregation = Literal["none", "simple", "first", "average", "max", "word"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)


@dataclass(frozen=True, slots=True)
class Entity:
    """One find: characters `start` to `end` of the text, which are `text`; `score` is the mean of its parts' scores."""

    label: str
    score: float
    start: int
    end: int
    text: str

    def __repr__(self) -> str:
        return f"Entity({self.text!r}, {self.label!r}, score={self.score:.2f}, {self.start}:{self.end})"


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
        return np.array([self._index.get(name, i) for i, name in enumerate(names)], dtype=np.int64)

    def reader(self, source: bytes, pad_id: int) -> Tokenizer:
        return Tokenizer(source, self.max_length, pad_id, stride=self._shared)

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoded:
        """As many rows a text as it takes to read all of it; the tokenizer is one of `reader`."""
        return tokenizer.windows(texts)

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Any]:
        """Entities of each text in their order, from logits (T, C) a row."""
        logits = cast(list[Floats], outputs["logits"])
        if self.aggregation == "word" and isinstance(encoded.windows, Windows):
            return self._quick(encoded, encoded.windows, logits)
        return [self._answer(text, windows, logits[rows]) for text, windows, rows in _by_text(encoded)]

    def _quick(self, encoded: Encoded, windows: Windows, logits: Sequence[Floats]) -> list[Any]:
        """`answers` by words: for texts of one window without an array of their own, which would cost more than all."""
        flat = np.concatenate(logits)
        chosen = flat.argmax(axis=-1)
        # Most tokens are no part of anything, and nobody asks for their scores.
        asked = np.flatnonzero(chosen != self._outside)
        sure = np.zeros(len(flat), dtype=np.float32)
        sure[asked] = softmax(flat[asked]).max(axis=-1)
        best, scores = chosen.tolist(), sure.tolist()
        texts, owners = cast(Sequence[str], encoded.texts), windows.owners
        found: list[Any] = []
        row, token = 0, 0
        while row < len(owners):
            behind = row + 1
            while behind < len(owners) and owners[behind] == owners[row]:
                behind += 1
            text = texts[owners[row]]
            if behind - row == 1:
                encoding = windows.encodings[row]
                spans = first_tokens(text, encoding.offsets, encoding.special_tokens_mask)
                tags = [self.tags[best[token + place]] for _, _, place in spans]
                runs = tag_runs(tags) if tags.count(OUTSIDE) < len(tags) else []
                found.append([self._entity(text, spans[a:b], label, scores, token) for a, b, label in runs])
            else:
                found.append(self._answer(text, windows[row:behind], logits[row:behind]))
            token += sum(len(logits[i]) for i in range(row, behind))
            row = behind
        return found

    def _entity(
        self, text: str, words: Sequence[tuple[int, int, int]], label: str, scores: Sequence[float], token: int
    ) -> Entity:
        """The entity that these words make; each comes with its characters and its first token."""
        start, end = words[0][0], words[-1][1]
        return Entity(label, sum(scores[token + w[2]] for w in words) / len(words), start, end, text[start:end])

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
            given = {trimmed(span, text) for span in self._spans(text, entities)}
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
        return cls(tuple(record["tags"]), int(record["max_length"]), int(record["stride"]), record["aggregation"])

    @property
    def _shared(self) -> int:
        """Tokens that two windows share: with the usual two special tokens, at most half of what a window holds."""
        return max(0, min(self.stride, (self.max_length - 2) // 2))

    @cached_property
    def _pipeline(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], tuple[str, ...]]:
        """For each tag, as the pipeline sees it: whether it begins an entity, a number for its kind, and its label."""
        begins, kinds, labels = zip(*map(pipeline_tag, self.tags), strict=True)
        return np.array(begins), np.array([kinds.index(kind) for kind in kinds]), labels

    def _answer(self, text: str, windows: Sequence[Window], logits: Sequence[Floats]) -> list[Entity]:
        """Entities of one text, from its windows and their logits (T, C)."""
        tokens = most_context(windows, self._shared)
        if not len(tokens):
            return []
        offsets = np.concatenate([w.offsets for w in windows])[tokens]
        scores = softmax(np.concatenate(logits)[tokens])
        if self.aggregation == "word":
            words = np.array(words_of(text), dtype=np.int64).reshape(-1, 2)
            first, last = covering(offsets, words[:, 0], words[:, 1])
            read = last > first
            offsets, scores = words[read], scores[first[read]]
        elif self.aggregation not in ("none", "simple"):
            subword = np.concatenate([w.subword for w in windows])[tokens]
            offsets, scores = word_scores(offsets, scores, subword, self.aggregation)
        best, values, places = scores.argmax(axis=-1), scores.max(axis=-1).tolist(), offsets.tolist()
        found = []
        for first_part, behind, label in self._runs(best):
            start, end = places[first_part][0], places[behind - 1][1]
            if start < end:
                score = sum(values[first_part:behind]) / (behind - first_part)
                found.append(Entity(label, score, start, end, text[start:end]))
        return found

    def _runs(self, best: Indices) -> list[Span]:
        """The entities that a sequence of tags (P,) stands for, as places in it."""
        if self.aggregation == "none":
            return [(i, i + 1, self.tags[best[i]]) for i in np.flatnonzero(best != self._outside).tolist()]
        if self.aggregation == "word":
            return tag_runs([self.tags[i] for i in best.tolist()])
        return self._pipeline_runs(best)

    def _pipeline_runs(self, best: Indices) -> list[Span]:
        """Parts of the same kind that follow each other, none of them but the first beginning an entity, as places."""
        begins, kinds, labels = self._pipeline
        new = begins[best]
        new[:1] = True
        new[1:] |= kinds[best[1:]] != kinds[best[:-1]]
        first = np.flatnonzero(new)
        behind = [*first[1:].tolist(), len(best)]
        runs = zip(first.tolist(), behind, best[first].tolist(), strict=True)
        return [(a, b, labels[tag]) for a, b, tag in runs if labels[tag] != OUTSIDE]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {tag: i for i, tag in enumerate(self.tags)}

    @property
    def _outside(self) -> int:
        """The tag O, or IGNORED where there is none."""
        return self._index.get(OUTSIDE, IGNORED)

    def _tags(self, offsets: NDArray[np.int32], spans: Sequence[Span]) -> NDArray[np.int64]:
        """The tags (T,) that mark the spans, given the characters (T, 2) of a text's tokens."""
        tags = np.full(len(offsets), self._outside, dtype=np.int64)
        if not spans:
            return tags
        starts, ends, types = zip(*sorted(spans), strict=True)
        done = 0
        for first, last, type_ in zip(*covering(offsets, np.array(starts), np.array(ends)), types, strict=True):
            begin = max(int(first), done)  # a token of two spans is the earlier one's
            if begin < last:
                tags[begin:last] = [self._index[tag] for tag in run_tags(int(last) - begin, type_, self._index)]
                done = int(last)
        return tags

    def _spans(self, text: str, entities: Sequence[Entity]) -> list[Span]:
        """Spans of a text's entities; with `none`, of its tokens grouped wherever only whitespace lies between them."""
        if self.aggregation != "none":
            return [(e.start, e.end, e.label) for e in entities]
        pieces: list[list[Entity]] = []
        for entity in entities:
            if pieces and not text[pieces[-1][-1].end : entity.start].strip():
                pieces[-1].append(entity)
            else:
                pieces.append([entity])
        return [
            (piece[first].start, piece[behind - 1].end, label)
            for piece in pieces
            for first, behind, label in self._pipeline_runs(np.array([self._index[e.label] for e in piece]))
        ]


def _by_text(encoded: Encoded) -> Iterator[tuple[str, list[Window], slice]]:
    """Each text with its windows, and which rows these are."""
    assert encoded.windows is not None and encoded.texts is not None  # `encode` makes both
    start = 0
    for number, group in groupby(encoded.windows, key=lambda window: window.text):
        windows = list(group)
        yield cast(str, encoded.texts[number]), windows, slice(start, start + len(windows))
        start += len(windows)
