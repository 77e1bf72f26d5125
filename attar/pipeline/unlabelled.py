"""Texts without labels: the model's own answers stand in for them. And can the model read these texts at all?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tokenizers import Encoding, Tokenizer

from attar.distill.data.split import normalise
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Answer, Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import Text, clean

FEWEST = 20
"""Different texts; with fewer nothing can be calibrated, chosen and judged apart."""
FOREIGN = 1 / 3
"""A share of words; from it on the texts are of another language than the vocabulary's, and a warning says so."""

_LABELS: Mapping[str, Callable[[Any], Any]] = {
    "regression": lambda answer: answer.value,
    "token-classification": lambda entities: tuple((e.start, e.end, e.label) for e in entities),
    "question-answering": lambda answer: ((answer.text, answer.start),),
}
"""An answer in the form that data have labels in."""


def own_answers(task: Task, answer: Answer, texts: Examples) -> Examples:
    """The texts with a model's own answers for labels: who is judged by them is judged by agreement with it."""
    several = isinstance(task, TextClassification) and task.multi_label
    form = (
        (lambda a: a.labels if several else a.label) if task.kind == "text-classification" else _LABELS.get(task.kind)
    )
    if form is None:
        raise SettingsError(
            f"{texts.source}: the answers of a model for {task.kind} cannot stand in for labels; give labelled --data"
        )
    return replace(texts, labels=tuple(form(found) for found in answer(texts.texts)))


def check_enough(texts: Examples) -> None:
    """Refuses a file with too few different texts to calibrate and to judge by."""
    count = len({normalise(text) for text in texts.texts})
    if count < FEWEST:
        raise DataError(
            f"{texts.source} holds {count} different texts, and at least {FEWEST} are needed to calibrate, choose and "
            "judge; give a few hundred texts of the kind that the model will read"
        )


def foreign_words(source: bytes, texts: Sequence[Text]) -> float:
    """The share of words that a tokenizer has no piece for, or only single characters, in texts or pairs of them."""
    tokenizer = Tokenizer.from_buffer(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    unknown = _unknown(tokenizer)
    single = [clean(part) for text in texts for part in ((text,) if isinstance(text, str) else text)]
    words = foreign = 0
    for encoding in tokenizer.encode_batch(single, add_special_tokens=False):
        found = _words(encoding, unknown)
        words, foreign = words + len(found), foreign + sum(found)
    return foreign / max(words, 1)


def _unknown(tokenizer: Tokenizer) -> int | None:
    name = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(name) if name else None


def _words(encoding: Encoding, unknown: int | None) -> list[bool]:
    """For each word of a text, whether it is foreign: unknown, or spelled in pieces of one character at most."""
    pieces: Counter[int] = Counter()
    short: Counter[int] = Counter()
    unread = set()
    for word, id_, (start, end) in zip(encoding.word_ids, encoding.ids, encoding.offsets, strict=True):
        if word is not None:
            pieces[word] += 1
            short[word] += end - start <= 1
            if id_ == unknown:
                unread.add(word)
    return [word in unread or (count > 1 and short[word] == count) for word, count in pieces.items()]


def warning_of(source: bytes, texts: Examples) -> str:
    """What is to be said where the texts look like another language than the model's; else nothing."""
    share = foreign_words(source, texts.texts)
    if share < FOREIGN:
        return ""
    return (
        f"warning: {texts.source}: {100 * share:.0f} % of the words are unknown to the model's vocabulary or spelled "
        "in single characters; are these texts of the model's language? Scales and choices made on them fit no others"
    )
