"""Start and end logits of the windows of one context to ranked answers; and SQuAD's exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from attar.runtime.tokenizer import Window

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible answer, `text == context[start:end]`. No answer has the text "" and stands from 0 to 0."""

    text: str
    score: float
    start: int
    end: int


def ranked(
    context: str, rows: Iterable[tuple[Window, Floats]], top_k: int, max_answer: int, no_answer: bool
) -> list[Candidate]:
    """The best `top_k` answers of a context, from the logits (T, 2) of each of its windows.

    As the question-answering pipeline of transformers 4.57: the 2 * `top_k` + 10 likeliest spans of each window are
    widened to whole words, and the scores of those with the same text, case aside, are summed. No answer scores
    what it does in the window that believes in it least. Unlike there, a score is at most 1 (windows that share an
    answer may sum to more), a text is reported where it is likeliest (there: where it was first met), blank spans
    are no answers, and none are made up where fewer than `top_k` exist.
    """
    found: dict[str, tuple[float, float, int, int]] = {}
    nothing = 1.0
    for window, logits in rows:
        firsts, lasts, scores, empty = spans(logits, window, 2 * top_k + 10, max_answer)
        nothing = min(nothing, empty)
        starts, ends = characters(window, firsts, lasts)
        for start, end, score in zip(starts.tolist(), ends.tolist(), scores.tolist(), strict=True):
            text = context[start:end]
            if not text.strip():
                continue
            total, best, *place = found.get(text.lower(), (0.0, -1.0, start, end))
            if score > best:
                best, place = score, [start, end]
            found[text.lower()] = (total + score, best, place[0], place[1])
    answers = [(total, start, end) for total, _, start, end in found.values()]
    if no_answer:
        answers.append((nothing, 0, 0))
    answers.sort(key=lambda answer: -answer[0])
    return [Candidate(context[start:end], min(total, 1.0), start, end) for total, start, end in answers[:top_k]]


def spans(
    logits: Floats, window: Window, most: int, max_answer: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], float]:
    """The `most` likeliest spans of one window, best first, and the score of no answer.

    Logits (T, 2) to first tokens (K,), last tokens (K,) and scores (K,): P(start) P(end) over the tokens of the
    context and the first token, which stands for no answer (Devlin et al. 2019, section 4.3). A span has at most
    `max_answer` tokens.
    """
    context = np.flatnonzero(window.sequence == 1)
    special = int(window.sequence[0] < 0)
    read = np.append(np.zeros(special, dtype=np.intp), context)
    if not len(read):
        return context, context, np.zeros(0), 0.0
    kept = logits[read].astype(np.float64)
    shares = np.exp(kept - kept.max(axis=0))
    shares /= shares.sum(axis=0)
    empty = float(shares[0].prod()) if special else 0.0
    starts, ends = shares[special:].T
    # Row s of the band holds the spans that start at s: memory grows with T, not with its square.
    width = min(max_answer, len(context))
    if not width:
        return context, context, np.zeros(0), empty
    band = starts[:, None] * sliding_window_view(np.append(ends, np.zeros(width - 1)), width)
    first, length = np.divmod(np.arange(band.size), width)
    flat = np.where(first + length < len(context), band.ravel(), -1.0)
    best = np.argpartition(-flat, most - 1)[:most] if most < flat.size else np.arange(flat.size)
    best = best[np.lexsort((best, -flat[best]))]
    best = best[flat[best] >= 0.0]
    return context[first[best]], context[first[best] + length[best]], flat[best], empty


def characters(
    window: Window, firsts: NDArray[np.intp], lasts: NDArray[np.intp]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Starts and ends (K,) in the context of the whole words that tokens (K,), (K,) of it belong to.

    Of a word that the window cuts, the part inside; of tokens that belong to no word, the tokens.
    """
    words = np.where(window.sequence == 1, window.words, -1)
    known = (words[firsts] >= 0) & (words[lasts] >= 0)
    heads = (words == words[firsts, None]).argmax(axis=1)
    tails = len(words) - 1 - (words == words[lasts, None])[:, ::-1].argmax(axis=1)
    return window.offsets[np.where(known, heads, firsts), 0], window.offsets[np.where(known, tails, lasts), 1]


def tokens_of(windows: Sequence[Window], start: int, end: int) -> NDArray[np.int64]:
    """First and last token (R, 2) of the characters from `start` to `end` of the context in each of its windows.

    (0, 0) in a window that does not hold all of the tokens that overlap them.
    """
    found = np.zeros((len(windows), 2), dtype=np.int64)
    places = np.full((len(windows), 2), -1, dtype=np.int64)
    for row, window in enumerate(windows):
        offsets = window.offsets
        overlap = (window.sequence == 1) & (offsets[:, 0] < end) & (offsets[:, 1] > start)
        inside = np.flatnonzero(overlap)
        if len(inside):
            found[row] = inside[0], inside[-1]
            places[row] = offsets[inside[0], 0], offsets[inside[-1], 1]
    # What a tokenizer drops (spaces, controls) may begin or end an answer: the widest find is the whole of it.
    held = places >= 0
    whole = np.array([places[:, 0].min(where=held[:, 0], initial=end), places[:, 1].max(initial=-1)])
    found[(places != whole).any(axis=1)] = 0
    return found


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """The words by which SQuAD compares: lower case, without ASCII punctuation and English articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(answer: str, golds: Sequence[str]) -> bool:
    """Whether the answer is one of the accepted ones, normalised (SQuAD 2.0's evaluation, Rajpurkar et al. 2018)."""
    return any(normalised(answer) == gold for gold in _accepted(golds))


def overlap_f1(answer: str, golds: Sequence[str]) -> float:
    """The best F1 of the answer's words with those of an accepted answer, 0 to 1; without any, 1 for no answer."""
    found = normalised(answer)
    return max(_f1(found, gold) for gold in _accepted(golds))


def _accepted(golds: Sequence[str]) -> list[list[str]]:
    # An accepted answer of which nothing is left counts only where there is no other.
    return [words for gold in golds if (words := normalised(gold))] or [[]]


def _f1(found: list[str], gold: list[str]) -> float:
    if not found or not gold:
        return float(found == gold)
    same = (Counter(found) & Counter(gold)).total()
    return 2 * same / (len(found) + len(gold))
