"""Logits of tokens to entities: whole texts, read in one window or in several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from attar.runtime.tasks.base import IGNORED, Floats, softmax
from attar.runtime.tasks.spans import (
    OUTSIDE,
    Indices,
    Span,
    covering,
    first_tokens,
    most_context,
    pipeline_tag,
    tag_runs,
    word_scores,
    words_of,
)
from attar.runtime.tokenizer import Window, Windows

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
class Decoder:
    """Makes entities of tokens as `TokenClassification` says; `shared`: tokens that two windows of a text share."""

    tags: tuple[str, ...]
    aggregation: Aggregation
    shared: int

    @cached_property
    def index(self) -> dict[str, int]:
        return {tag: i for i, tag in enumerate(self.tags)}

    @property
    def outside(self) -> int:
        """The tag O, or IGNORED where there is none."""
        return self.index.get(OUTSIDE, IGNORED)

    def entities(self, text: str, windows: Sequence[Window], logits: Sequence[Floats]) -> list[Entity]:
        """Entities of one text, from its windows and their logits (T, C)."""
        tokens = most_context(windows, self.shared)
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

    def words(self, texts: Sequence[str], windows: Windows, logits: Sequence[Floats]) -> list[list[Entity]]:
        """Entities of all texts by aggregation `word`, from the logits (T, C) of each of their windows.

        What `entities` finds; texts of one window have no array of their own, which would cost more than all the rest.
        """
        flat = np.concatenate(logits)
        chosen = flat.argmax(axis=-1)
        # Most tokens are no part of anything, and nobody asks for their scores.
        asked = np.flatnonzero(chosen != self.outside)
        sure = np.zeros(len(flat), dtype=np.float32)
        sure[asked] = softmax(flat[asked]).max(axis=-1)
        best, scores = chosen.tolist(), sure.tolist()
        owners = windows.owners
        found: list[list[Entity]] = []
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
                found.append([_entity(text, spans[a:b], label, scores, token) for a, b, label in runs])
            else:
                found.append(self.entities(text, windows[row:behind], logits[row:behind]))
            token += sum(len(logits[i]) for i in range(row, behind))
            row = behind
        return found

    def spans(self, text: str, entities: Sequence[Entity]) -> list[Span]:
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
            for first, behind, label in self._pipeline_runs(np.array([self.index[e.label] for e in piece]))
        ]

    def _runs(self, best: Indices) -> list[Span]:
        """The entities that a sequence of tags (P,) stands for, as places in it."""
        if self.aggregation == "none":
            return [(i, i + 1, self.tags[best[i]]) for i in np.flatnonzero(best != self.outside).tolist()]
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
    def _pipeline(self) -> tuple[NDArray[np.bool_], NDArray[np.int64], tuple[str, ...]]:
        """For each tag, as the pipeline sees it: whether it begins an entity, a number for its kind, and its label."""
        begins, kinds, labels = zip(*map(pipeline_tag, self.tags), strict=True)
        return np.array(begins), np.array([kinds.index(kind) for kind in kinds]), labels


def _entity(
    text: str, words: Sequence[tuple[int, int, int]], label: str, scores: Sequence[float], token: int
) -> Entity:
    """The entity that these words make; each comes with its characters and its first token."""
    start, end = words[0][0], words[-1][1]
    return Entity(label, sum(scores[token + w[2]] for w in words) / len(words), start, end, text[start:end])
