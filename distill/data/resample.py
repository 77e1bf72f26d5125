"""New texts by changing words of given ones: neighbours in embedding space, draws from a bigram model, masks.

A text keeps its words' slots: what stands between the words, punctuation and spaces, stays as it is. Both texts of a
pair are changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attar.distill.data.words import Words
from attar.runtime.tokenizer import Text

REPLACED = 0.4
"""The share of words that are replaced: p_t of TinyBERT (Jiao et al. 2020, algorithm 1)."""
REDRAWN = 0.25
"""The share of words that are drawn anew: the rate of n-gram rules in Tang et al. (2019, section 3.3)."""
MASKED = 0.1
"""The share of words that are masked: p_mask of Tang et al. (2019, section 3.3)."""
_WORD = re.compile(r"(\w+(?:['’]\w+)*)")


@dataclass(frozen=True)
class Slots:
    """Texts taken apart.

    Attributes:
        texts: the texts; a pair has two rows.
        pieces: of all rows, words and what stands between them.
        rows: where each row's pieces begin, and where the last ends (R + 1,).
        at: where in `pieces` the words are (W,).
        first: whether a word is the first of its row (W,).
        names: the distinct words.
        words: each word as an index of `names` (W,).
    """

    texts: Sequence[Text]
    pieces: NDArray[np.object_]
    rows: list[int]
    at: NDArray[np.int64]
    first: NDArray[np.bool_]
    names: list[str]
    words: NDArray[np.int64]

    def filled(self, words: NDArray[np.object_]) -> list[Text]:
        """The texts with other words (W,) in their slots."""
        pieces = self.pieces.copy()
        pieces[self.at] = words
        flat = pieces.tolist()
        bounds = zip(self.rows, self.rows[1:], strict=False)
        made = iter(["".join(flat[start:end]) for start, end in bounds])
        return [next(made) if isinstance(text, str) else (next(made), next(made)) for text in self.texts]


def slots_of(texts: Sequence[Text]) -> Slots:
    """The words of texts and pairs, and their places."""
    pieces: list[str] = []
    rows: list[int] = [0]
    at: list[int] = []
    first: list[bool] = []
    for row in (part for text in texts for part in ((text,) if isinstance(text, str) else text)):
        split = _WORD.split(row)  # words have the odd places
        at.extend(range(len(pieces) + 1, len(pieces) + len(split), 2))
        first.extend([i == 1 for i in range(1, len(split), 2)])
        pieces.extend(split)
        rows.append(len(pieces))
    index: dict[str, int] = {}
    words = [index.setdefault(pieces[i], len(index)) for i in at]
    return Slots(
        texts, np.array(pieces, dtype=object), rows, np.array(at, np.int64), np.array(first, bool), list(index),
        np.array(words, np.int64),
    )  # fmt: skip


def replaced(texts: Sequence[Text], words: Words, seed: int) -> Iterator[list[Text]]:
    """Copies without end of all texts: each known word is, at a rate of `REPLACED`, one of its nearest neighbours."""
    slots = slots_of(texts)
    near = words.near(slots.names)
    given = np.array(slots.names, dtype=object)
    counts = np.array([len(near.get(name, ())) for name in slots.names], dtype=np.int64)
    table = np.array([other for name in slots.names for other in near.get(name, ())], dtype=object)
    starts = np.cumsum(counts) - counts
    rng = np.random.default_rng(seed)
    while True:
        chosen = (rng.random(len(slots.words)) < REPLACED) & (counts[slots.words] > 0)
        changed = slots.words[chosen]
        made = given[slots.words]
        made[chosen] = table[starts[changed] + rng.integers(0, counts[changed])]
        yield slots.filled(made)


def redrawn(texts: Sequence[Text], seed: int) -> Iterator[list[Text]]:
    """Copies without end of all texts: each word is, at a rate of `REDRAWN`, drawn given the word before it.

    Drawn from what follows that word in the texts, as often as it does; back off to all words where only one does. The
    word before may itself have been drawn, and the beginning of a text counts as a word.
    """
    slots = slots_of(texts)
    names, kinds = np.array(slots.names, dtype=object), len(slots.names)
    before = np.where(slots.first, kinds, np.roll(slots.words, 1))
    order = np.argsort(before, kind="stable")
    following, everything = slots.words[order].tolist(), slots.words.tolist()
    starts = np.searchsorted(before[order], np.arange(kinds + 2)).tolist()
    distinct = np.bincount(np.unique(before * kinds + slots.words) // max(kinds, 1), minlength=kinds + 1).tolist()
    first = slots.first.tolist()
    rng = np.random.default_rng(seed)
    while True:
        made, chance = slots.words.tolist(), rng.random(len(slots.words)).tolist()
        for slot in np.flatnonzero(rng.random(len(made)) < REDRAWN).tolist():
            context = kinds if first[slot] else made[slot - 1]
            start, end = starts[context], starts[context + 1]
            known = distinct[context] > 1
            made[slot] = (
                following[start + int(chance[slot] * (end - start))]
                if known
                else everything[int(chance[slot] * len(everything))]
            )
        yield slots.filled(names[np.array(made, np.int64)])


def masked(texts: Sequence[Text], mask: str, seed: int) -> Iterator[list[Text]]:
    """Copies without end of all texts: each word is, at a rate of `MASKED`, the tokenizer's mask token."""
    slots = slots_of(texts)
    given = np.array(slots.names, dtype=object)[slots.words] if slots.names else np.array([], dtype=object)
    rng = np.random.default_rng(seed)
    while True:
        yield slots.filled(np.where(rng.random(len(given)) < MASKED, mask, given))
