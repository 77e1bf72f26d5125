"""Text to token ids, exactly as trained: our own truncation, no padding hidden in tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.words import Words, words_of

Ids = NDArray[np.int64]
Text = str | tuple[str, str]
"""One input: a text, or a pair such as (question, context)."""


@dataclass(frozen=True)
class Window:
    """Where the tokens of one row come from; for a pair, offsets and words are those of the text it belongs to.

    Attributes:
        text: index of the text that the row is of.
        offsets: characters (T, 2) of each token in its text; (0, 0) for special tokens.
        sequence: (T,) 0 for a token of the first text, 1 of the second, -1 for special tokens.
        words: (T,) which word of its text a token belongs to, as the tokenizer splits words; -1 for special tokens.
        subword: (T,) whether a token goes on with the word of the one before, as transformers'
            TokenClassificationPipeline sees words; it says nothing of special tokens, and is empty for a pair.
    """

    text: int
    offsets: NDArray[np.int32]
    sequence: NDArray[np.int8]
    words: NDArray[np.int32]
    subword: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


class Windows(Sequence[Window]):
    """The windows of all rows, each made when it is asked for: most texts are short and need few of their arrays.

    Attributes:
        encodings: what the library returned for each row.
        owners: index of the text that each row is of.
    """

    def __init__(self, encodings: list[Any], owners: list[int], make: Callable[[int], Window]) -> None:
        self.encodings, self.owners = encodings, owners
        self._made: list[Window | None] = [None] * len(owners)
        self._make = make

    def __len__(self) -> int:
        return len(self.owners)

    @overload
    def __getitem__(self, place: int) -> Window: ...
    @overload
    def __getitem__(self, place: slice) -> list[Window]: ...
    def __getitem__(self, place: int | slice) -> Window | list[Window]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        found = self._made[place]
        if found is None:
            found = self._made[place] = self._make(range(len(self))[place])
        return found


@dataclass(frozen=True)
class Encoded:
    """Rows of the network's input. Without `windows`, row i is text i; with them, `windows[i].text` says.

    Attributes:
        ids: token ids of each row, special tokens included.
        truncated: for each text, whether some of it was left out.
        types: token types of each row, for pairs.
        windows: one a row, in the order of the texts and, within a text, of its windows.
        texts: with windows, the texts themselves, which answers quote.
    """

    ids: list[list[int]]
    truncated: list[bool]
    types: list[list[int]] | None = None
    windows: Sequence[Window] | None = None
    texts: Sequence[Text] | None = None

    @property
    def owners(self) -> Sequence[int]:
        """Index of the text that each row is of."""
        if self.windows is None:
            return range(len(self.ids))
        return self.windows.owners if isinstance(self.windows, Windows) else [w.text for w in self.windows]


class Tokenizer:
    """A tokenizer.json with truncation at `max_length` tokens and no padding (files often carry other settings).

    `stride`: how many tokens two windows of a long text share; `cuts`: which text of a pair is cut (and windowed).
    """

    def __init__(
        self,
        source: bytes,
        max_length: int,
        pad_id: int = 0,
        *,
        stride: int = 0,
        cuts: Literal["longest_first", "only_second"] = "longest_first",
    ) -> None:
        try:
            self._backend = Backend.from_buffer(source)
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from error
        self._backend.no_padding()
        # What is added to a text leaves the rest to the text itself; windows that do not advance would never end.
        room = max_length - self._backend.num_special_tokens_to_add(cuts == "only_second")
        if not 0 <= stride < max(1, room):
            raise SettingsError(f"stride must be at least 0 and below {room}, what {max_length} tokens leave for text")
        self._backend.enable_truncation(max_length, stride=stride, strategy=cuts)
        self._words = words_of(self._backend, max_length)
        self.pad_id = pad_id
        self.max_length = max_length

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """One row a text, cut at the longest length; a single text skips the thread pool of the batch path."""
        limit = self.max_length
        if self._words is not None and all(isinstance(t, str) for t in texts):
            return self._by_words(self._words, texts)
        found = self._encode(texts, fast=True)
        cut = [len(e.ids) >= limit and bool(e.overflowing) for e in found]
        types = None if all(isinstance(t, str) for t in texts) else [e.type_ids for e in found]
        return Encoded([e.ids for e in found], cut, types)

    def _by_words(self, words: Words, texts: Sequence[Any]) -> Encoded:
        """As `encode`, of single texts: by the table of words where it can tell."""
        limit = self.max_length
        found = [words.encode(text, limit) for text in texts]
        rest = [i for i, row in enumerate(found) if row is None]
        if rest:
            for i, e in zip(rest, self._encode([texts[i] for i in rest], fast=True), strict=True):
                found[i] = e.ids, len(e.ids) >= limit and bool(e.overflowing)
        known = [row for row in found if row is not None]
        return Encoded([ids for ids, _ in known], [cut for _, cut in known])

    def windows(self, texts: Sequence[Text]) -> Encoded:
        """All of every text, in as many rows as it takes, with character offsets."""
        encodings, owners = [], []
        for number, first in enumerate(self._encode(texts, fast=False)):
            encodings.append(first)
            owners.append(number)
            for more in first.overflowing:
                encodings.append(more)
                owners.append(number)
        windows = Windows(encodings, owners, lambda row: self._window(encodings[row], owners[row], texts))
        pairs = any(not isinstance(t, str) for t in texts)
        types = [e.type_ids for e in encodings] if pairs else None
        return Encoded([e.ids for e in encodings], [False] * len(texts), types, windows, texts)

    def _window(self, e: Any, number: int, texts: Sequence[Text]) -> Window:
        sequence = np.array([-1 if s is None else s for s in e.sequence_ids], dtype=np.int8)
        words = np.array([-1 if w is None else w for w in e.word_ids], dtype=np.int32)
        offsets = np.array(e.offsets, dtype=np.int32).reshape(-1, 2)
        return Window(number, offsets, sequence, words, self._subword(e.ids, offsets, texts[number]))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of every token of one text, without special tokens and without any cut."""
        backend = Backend.from_str(self._backend.to_str()) if self._whole is None else self._whole
        backend.no_truncation()
        self._whole = backend
        found: list[tuple[int, int]] = backend.encode(clean(text), add_special_tokens=False).offsets
        return found

    _whole: Backend | None = None

    def token(self, id_: int) -> str:
        """The token of an id."""
        return self._backend.id_to_token(id_) or ""

    def _subword(self, ids: Sequence[int], offsets: NDArray[np.int32], text: Text) -> NDArray[np.bool_]:
        """`Window.subword` of a row: ids (T,), offsets (T, 2) into its text."""
        if not isinstance(text, str):
            return np.zeros(0, dtype=np.bool_)
        unknown, lengths = self._pieces
        row = np.array(ids, dtype=np.int64)
        if lengths is not None:
            found = lengths[row] != offsets[:, 1] - offsets[:, 0]
        else:
            found = np.array([s > 0 and " " not in text[s - 1 : s + 1] for s in offsets[:, 0].tolist()], dtype=np.bool_)
        return np.asarray(found & (row != unknown))

    @cached_property
    def _pieces(self) -> tuple[int, NDArray[np.int32] | None]:
        """The unknown token's id, or -1; and the length of every token by its id, if those within words are marked."""
        model = json.loads(self._backend.to_str())["model"]
        unknown = model.get("unk_id")  # Unigram has its id, all others its name
        if unknown is None and model.get("unk_token") is not None:
            unknown = self._backend.token_to_id(model["unk_token"])
        lengths = None
        if model.get("continuing_subword_prefix"):
            vocabulary = self._backend.get_vocab(with_added_tokens=True)
            lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
            for token, id_ in vocabulary.items():
                lengths[id_] = len(token)
        return -1 if unknown is None else unknown, lengths

    def _encode(self, texts: Sequence[Text], fast: bool) -> list[Any]:
        # Lone surrogates (half of an emoji, from broken JSON) cannot cross into UTF-8: show them as U+FFFD.
        given = [clean(t) if isinstance(t, str) else (clean(t[0]), clean(t[1])) for t in texts]
        if len(given) == 1:
            only = given[0]
            return [self._backend.encode(only) if isinstance(only, str) else self._backend.encode(*only)]
        found = self._backend.encode_batch_fast(given) if fast else self._backend.encode_batch(given)
        return list(found)


_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """The text with every lone surrogate shown as U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def clean(text: str) -> str:
    """`well_formed`, for nothing where the text is ASCII. Characters keep their places."""
    return text if text.isascii() else well_formed(text)


def pad(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> tuple[Ids, Ids]:
    """Right-padded ids and mask, both (B, T) int64; T is the longest row, or `length` where that is more.

    A row without tokens, as an empty text is to a tokenizer that adds none, is one padding token that counts.
    """
    width = max(length or 0, 1, max(map(len, rows)))
    if len(rows) == 1 and len(rows[0]) == width:
        ids = np.array(rows, dtype=np.int64)
        return ids, np.ones_like(ids)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : max(1, len(row))] = 1
    return ids, mask
