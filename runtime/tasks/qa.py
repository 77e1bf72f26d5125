"""Extractive question answering: a question and a context to the words of the context that answer; judged by F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks import base
from attar.runtime.tasks.base import Head, Outputs, Statistics, Targets, Task
from attar.runtime.tasks.classification import check_texts
from attar.runtime.tasks.qa_decode import Candidate, exact_match, overlap_f1, ranked, tokens_of
from attar.runtime.tokenizer import Encoded, Text, Tokenizer, Window

SHORTEST = 16
"""Below this many tokens there is no room for a question, a context and what two windows share."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The best answer: `text == context[start:end]`, in characters of the context as it was given.

    No answer: text "", start and end 0, with its own score; also (with score 0) for a context without any token.
    `score`: the probability of start times that of end; summed over places with the same text, at most 1.
    `candidates`: the `top_k` best, this one first. `truncated`: the question was cut; a context never is.
    """

    text: str
    score: float
    start: int
    end: int
    candidates: tuple[Candidate, ...]
    truncated: bool = False

    def __repr__(self) -> str:
        cut = ", truncated=True" if self.truncated else ""
        return f"Answer({self.text!r}, score={self.score:.2f}, start={self.start}, end={self.end}{cut})"


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """The task; its answers are those of the question-answering pipeline of transformers 4.57 (see `qa_decode`).

    Attributes:
        max_length: tokens of a row: question, part of the context, special tokens.
        stride: tokens that two windows of a long context share; at most half of `max_length`.
        max_answer: the longest answer, in tokens.
        top_k: how many candidates an answer holds.
        max_question: a longer question is cut to this many tokens, or fewer where rows are short.
        no_answer: whether it was trained with questions without an answer; only then "" may be the answer.

    Raises:
        SettingsError: a number out of its range, or a stride of more than half of `max_length`.
    """

    max_length: int = 384
    stride: int = 128
    max_answer: int = 15
    top_k: int = 1
    max_question: int = 64
    no_answer: bool = False

    kind = "question-answering"
    options = ("top_k", "max_answer", "no_answer")

    def __post_init__(self) -> None:
        least = {"max_length": SHORTEST, "stride": 0, "max_answer": 1, "top_k": 1, "max_question": 1}
        for name, bound in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < bound:
                raise SettingsError(f"{name} must be a whole number of at least {bound}, not {value!r}")
        if type(self.no_answer) is not bool:
            raise SettingsError(f"no_answer must be true or false, not {self.no_answer!r}")
        if self.stride > self.max_length // 2:
            raise SettingsError(
                f"stride, {self.stride} tokens, is more than half of max_length, {self.max_length}: windows would "
                f"hardly advance; set stride = {self.max_length // 3} in [task], or a larger max_length"
            )

    @property
    def heads(self) -> tuple[Head, ...]:
        return (Head("logits", 2, "tokens", "span"),)

    @property
    def gates(self) -> tuple[str, ...]:
        return ("F1",)

    @property
    def pairs(self) -> bool:
        return True

    def reader(self, source: bytes, pad_id: int) -> Tokenizer:
        return Tokenizer(source, self.max_length, pad_id, stride=self.stride, cuts="only_second")

    def parse(self, item: object) -> Text:
        """[question, context], or an object with "question" and "context"; neither may be blank."""
        question, context = base.parse_pair(item, ("question", "context"))
        if not question.strip():
            raise DataError("has an empty question; give a question and the context that holds its answer")
        if not context.strip():
            raise DataError("has an empty context; give the text in which to look for the answer")
        return question, context

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoded:
        """As many rows as each context takes, each with the whole question; `truncated`: the question was cut."""
        given = [_pair(text) for text in texts]
        special = [w.sequence < 0 for w in tokenizer.windows([("a", "a")]).windows or []]
        room = self.max_length - int(special[0].sum())
        # A quarter of the row at least is new in each window, however long the question.
        limit = max(1, min(self.max_question, room - self.stride - room // 4))
        cut = [(_first_tokens(tokenizer, question, limit), context) for question, context in given]
        return replace(tokenizer.windows(cut), truncated=[a[0] != b[0] for a, b in zip(given, cut, strict=True)])

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Answer]:
        """One `Answer` a text, from logits (T, 2) a row: of start and of end."""
        rows: list[list[tuple[Window, base.Floats]]] = [[] for _ in encoded.truncated]
        for window, logits in zip(encoded.windows or [], outputs["logits"], strict=True):
            rows[window.text].append((window, logits))
        found = []
        for text, windows, cut in zip(encoded.texts or [], rows, encoded.truncated, strict=True):
            candidates = tuple(ranked(_pair(text)[1], windows, self.top_k, self.max_answer, self.no_answer))
            best = candidates[0] if candidates else Candidate("", 0.0, 0, 0)
            found.append(Answer(best.text, best.score, best.start, best.end, candidates, cut))
        return found

    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        """Start and end token (R, 2) of the first answer, from (start, end) characters; labels as `named` gives.

        A window that does not hold all of it, or a question without one, aims at the first token for both
        (Devlin et al. 2019, section 4.3).
        """
        windows: list[list[Window]] = [[] for _ in labels]
        for window in encoded.windows or []:
            windows[window.text].append(window)
        found = [tokens_of(w, *(spans[0] if spans else (0, 0))) for w, spans in zip(windows, labels, strict=True)]
        return {"logits": np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])}

    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[tuple[tuple[int, int], ...], ...]:
        """(answer, start) as data has them, checked against the context, to (start, end) in characters."""
        check_texts(texts, True)
        checked = []
        for number, (answers, text) in enumerate(zip(labels, texts, strict=True), 1):
            if not answers and not self.no_answer:
                raise DataError(
                    f"example {number}: a question without an answer; set no_answer = true in [task], or leave it out"
                )
            checked.append(tuple(_span(number, answer, start, _pair(text)[1]) for answer, start in answers))
        return tuple(checked)

    def statistics(self, answer: base.Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        """SQuAD's exact match (N,) and F1 (N,) of 0 to 1 with the best of the accepted answers, (start, end) each."""
        golds = [[_pair(t)[1][start:end] for start, end in spans] for t, spans in zip(texts, labels, strict=True)]
        both = list(zip([found.text for found in answer(texts)], golds, strict=True))
        return {
            "exact match": np.array([exact_match(found, gold) for found, gold in both], dtype=np.bool_),
            "F1": np.array([overlap_f1(found, gold) for found, gold in both], dtype=np.float64),
        }

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind} | {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(**{f.name: record[f.name] for f in fields(cls)})


def _pair(text: Text) -> tuple[str, str]:
    if isinstance(text, str):
        raise DataError("is one text; question answering needs two, [question, context]")
    return text


def _first_tokens(tokenizer: Tokenizer, text: str, limit: int) -> str:
    """The text, or as much of its beginning as takes no more than `limit` tokens."""
    offsets = tokenizer.offsets(text)
    if len(offsets) <= limit:
        return text
    # Where one character takes several tokens, a cut after any but the last would keep them all.
    while limit and offsets[limit][0] < offsets[limit - 1][1]:
        limit -= 1
    return text[: offsets[limit - 1][1]] if limit else ""


def _span(number: int, answer: str, start: int, context: str) -> tuple[int, int]:
    """Where an answer stands, (start, end), or a `DataError` that says where it does instead."""
    end = start + len(answer)
    if not answer:
        raise DataError(f"example {number}: an empty answer; a question without an answer has an empty list of answers")
    if start >= 0 and context[start:end] == answer:
        return start, end
    first, count = context.find(answer), context.count(answer)
    place = f"starts there at {first}" if count == 1 else f"occurs there {count} times, first at {first}"
    remedy = f"it {place}: correct the start" if count else "nor anywhere else in it: correct the answer"
    stands = f"where {context[start:end]!r} stands" if 0 <= start < len(context) else f"of {len(context)}"
    raise DataError(
        f"example {number}: the answer {answer!r} is not at character {start} of its context, {stands}; {remedy}"
    )
