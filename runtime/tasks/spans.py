"""Tags and spans: decoding and encoding of BIO, BILOU and BIOES, words of a text, tokens of overlapping windows."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import DataError
from attar.runtime.tasks.classification import SHOWN
from attar.runtime.tokenizer import Window

Span = tuple[int, int, str]
"""Start, end and type: characters of a text, or places in a sequence; the end is not part of it."""
Scheme = Literal["BIO", "BILOU", "BIOES", "plain"]
Indices = NDArray[np.intp]

OUTSIDE = "O"
PREFIXES: dict[Scheme, tuple[str, ...]] = {
    "BIO": ("B-", "I-"),
    "BILOU": ("B-", "I-", "L-", "U-"),
    "BIOES": ("B-", "I-", "E-", "S-"),
    "plain": ("",),
}
_BEGIN = frozenset({"B-", "U-", "S-"})
_END = frozenset({"L-", "E-", "U-", "S-"})
# Which prefix each place of a span takes, best first: some models know I- alone, or no L- of a type; plain tags none.
_SINGLE, _FIRST = ("U-", "S-", "B-", "I-", "L-", "E-", ""), ("B-", "I-", "U-", "S-", "L-", "E-", "")
_INSIDE, _LAST = ("I-", "B-", "L-", "E-", "U-", "S-", ""), ("L-", "E-", "I-", "B-", "U-", "S-", "")
_WORD = re.compile(r"\S+")


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and type: ("B-", "city") of B-city, ("", "NOUN") of NOUN, ("", "") of O."""
    if tag == OUTSIDE:
        return "", ""
    marked = len(tag) > 2 and tag[1] == "-" and tag[0] in "BILUES"
    return (tag[:2], tag[2:]) if marked else ("", tag)


def scheme_of(tags: Iterable[str]) -> Scheme:
    """The scheme that the names of the tags are of: any L- or U- makes it BILOU, E- or S- BIOES, B- or I- BIO."""
    prefixes = {split_tag(tag)[0] for tag in tags}
    if prefixes & {"L-", "U-"}:
        return "BILOU"
    if prefixes & {"E-", "S-"}:
        return "BIOES"
    return "BIO" if prefixes & {"B-", "I-"} else "plain"


def tags_of(types: Iterable[str], scheme: Scheme = "BIO") -> tuple[str, ...]:
    """The tags that tell these types apart: O first, then B-x, I-x and so on of each type in sorted order."""
    return (OUTSIDE, *(prefix + type_ for type_ in sorted(set(types)) for prefix in PREFIXES[scheme]))


def tag_runs(tags: Sequence[str]) -> list[Span]:
    """The runs of a sequence of tags, as places in it; an invalid sequence is read as what it most likely means.

    B-, U- and S- always begin a run, and so does any tag that does not go on with a run of its own type: I-, L- and E-
    after O, another type, or a run that L-, E-, U- or S- has ended. Plain tags are read as I-. This is how seqeval
    reads invalid sequences unless told to be strict, and how conlleval did (Tjong Kim Sang and Buchholz, 2000).
    """
    found: list[Span] = []
    going_on = False
    for i, tag in enumerate(tags):
        prefix, type_ = split_tag(tag)
        if not type_:
            going_on = False
            continue
        if going_on and prefix not in _BEGIN and found[-1][2] == type_:
            found[-1] = (found[-1][0], i + 1, type_)
        else:
            found.append((i, i + 1, type_))
        going_on = prefix not in _END
    return found


def tags_to_spans(tags: Sequence[str], words: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Spans in characters from one tag a word, given the characters of each word; see `tag_runs` for invalid tags.

    Raises DataError if there are not as many tags as words.
    """
    if len(tags) != len(words):
        raise DataError(f"{len(tags)} tags for {len(words)} words; give each word one tag")
    return tuple((words[first][0], words[last - 1][1], type_) for first, last, type_ in tag_runs(tags))


def run_tags(length: int, type_: str, known: Container[str]) -> list[str]:
    """The tags of a run of `length` places, of those tags that are known: B-, I-, ..., or with L- and U-, or E- and S-.

    Raises DataError if no known tag fits.
    """

    def best(prefixes: Sequence[str]) -> str:
        for prefix in prefixes:
            if prefix + type_ in known:
                return prefix + type_
        raise DataError(f"no tag marks a span of type {type_!r}; name the tags by one of {', '.join(PREFIXES)}")

    if length == 1:
        return [best(_SINGLE)]
    return [best(_FIRST), *[best(_INSIDE)] * (length - 2), best(_LAST)] if length else []


def words_of(text: str) -> list[tuple[int, int]]:
    """Characters of every word of a text: its runs of anything but whitespace."""
    return [match.span() for match in _WORD.finditer(text)]


def first_tokens(text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[tuple[int, int, int]]:
    """Characters of every word of a text, and the first token (T characters each) that covers any of them.

    Words that no token covers are left out; `special` (T,) marks tokens that are not of the text.
    """
    tokens = [(start, end, i) for i, (start, end) in enumerate(offsets) if not special[i]]
    found = []
    at, count = 0, len(tokens)
    for match in _WORD.finditer(text):
        start, end = match.span()
        while at < count and tokens[at][1] <= start:
            at += 1
        if at < count and tokens[at][0] < end:
            found.append((start, end, tokens[at][2]))
    return found


def covering(offsets: NDArray[Any], start: NDArray[Any], end: NDArray[Any]) -> tuple[Indices, Indices]:
    """First token, and the one behind the last, of those that share characters with each span.

    Offsets (T, 2) of a text's tokens in their order, starts (S,) and ends (S,) -> two of (S,), equal where no token is.
    """
    first = np.searchsorted(offsets[:, 1], start, side="right")
    return first, np.maximum(first, np.searchsorted(offsets[:, 0], end, side="left"))


def starts_of_rows(windows: Sequence[Window], stride: int) -> list[int]:
    """Which token of the text each of its windows begins with, special tokens left out; `stride` are shared by two."""
    step = int((windows[0].sequence >= 0).sum()) - stride
    return [i * step for i in range(len(windows))]


def most_context(windows: Sequence[Window], stride: int) -> Indices:
    """For each token of a text (T,), where to read it in its windows laid end to end.

    Of several windows, that in which the token has most context on its poorer side, and a little for the length of
    the window; the first of equals (Devlin et al. 2019, BERT, run_squad.py: `_check_is_max_context`).
    """
    inside = [np.flatnonzero(window.sequence >= 0) for window in windows]
    if len(windows) == 1:
        return inside[0]
    starts = starts_of_rows(windows, stride)
    total = starts[-1] + len(inside[-1])
    best = np.full(total, -1.0)
    found = np.zeros(total, dtype=np.intp)
    before = 0
    for window, own, start in zip(windows, inside, starts, strict=True):
        left = np.arange(len(own))
        score = np.minimum(left, len(own) - 1 - left) + 0.01 * len(own)
        better = np.flatnonzero(score > best[start : start + len(own)])
        best[start + better] = score[better]
        found[start + better] = before + own[better]
        before += len(window.sequence)
    return found


def pipeline_tag(tag: str) -> tuple[bool, str, str]:
    """A tag as transformers' TokenClassificationPipeline sees it: whether it begins an entity, its kind, its label.

    Parts of one kind make one entity, unless they begin one; prefixes other than B- and I- belong to the kind.
    """
    kind = tag[2:] if tag.startswith(("B-", "I-")) else tag
    return tag.startswith("B-"), kind, tag.split("-", 1)[-1]


def word_scores(
    offsets: NDArray[Any], scores: NDArray[np.float32], subword: NDArray[np.bool_], how: str
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Characters (W, 2) and scores (W, C) of a text's words, from those (T, 2) and (T, C) of its tokens, T > 0.

    `subword` (T,): which tokens go on with a word. `how` a word takes its scores: of its `first` token, their
    `average`, or those of the token of which one score is the `max`.
    """
    begins = ~subword
    begins[0] = True
    first = np.flatnonzero(begins)
    behind = np.append(first[1:], len(subword))
    places = np.column_stack([offsets[first, 0], offsets[behind - 1, 1]])
    if how == "first":
        return places, scores[first]
    if how == "average":
        sums = np.add.reduceat(scores, first, axis=0)
        return places, np.asarray(sums / (behind - first)[:, None], dtype=np.float32)
    top = scores.max(axis=-1)
    highest = np.flatnonzero(top == np.repeat(np.maximum.reduceat(top, first), behind - first))
    return places, scores[highest[np.searchsorted(highest, first)]]


def trimmed(span: Span, text: str) -> Span:
    """The span without whitespace at its ends."""
    start, end, type_ = span
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip()), type_


def checked(spans: object, text: str, types: Sequence[str], where: str) -> tuple[Span, ...]:
    """The spans of one example, sorted.

    Raises:
        DataError: one does not lie in the text, holds only whitespace, overlaps another, or is of no known type. The
            message begins with `where`.
    """
    if not isinstance(spans, list | tuple) or not all(isinstance(s, list | tuple) and len(s) == 3 for s in spans):
        raise DataError(f"{where}: {spans!r} is not a list of spans; give [start, end, type] for each, or []")
    for start, end, type_ in spans:
        what = f"{where}: span [{start!r}, {end!r}, {type_!r}]"
        if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
            raise DataError(
                f"{what} does not lie in its text of {len(text)} characters; "
                "count characters from 0, and give the end behind the last one"
            )
        if type_ not in types:
            listed = ", ".join(types[:SHOWN]) + (", ..." if len(types) > SHOWN else "")
            raise DataError(
                f"{what} is of a type that was never seen in training (known: {listed}); "
                "correct it in the data or train with examples of it"
            )
        if not text[start:end].strip():
            raise DataError(f"{what} holds only whitespace; move it to the words that are meant")
    found = sorted((start, end, type_) for start, end, type_ in spans)
    for before, after in pairwise(found):
        if after[0] < before[1]:
            raise DataError(f"{where}: spans {list(before)} and {list(after)} overlap; keep one of the two")
    return tuple(found)
