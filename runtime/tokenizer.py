"""Text to token ids, exactly as trained: our own truncation, no padding hidden in tokenizer.json."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from attar.runtime.errors import BundleError

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Token ids of each text, special tokens included, and whether the text was cut to the model's length."""

    ids: list[list[int]]
    truncated: list[bool]


class Tokenizer:
    """A tokenizer.json with truncation at `max_length` tokens and no padding (files often carry other settings)."""

    def __init__(self, source: bytes, max_length: int, pad_id: int = 0) -> None:
        try:
            self._backend = Backend.from_buffer(source)
        except Exception as error:  # the library raises bare Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from error
        self._backend.no_padding()
        self._backend.enable_truncation(max_length)
        self.pad_id = pad_id
        self.max_length = max_length

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text; a single text skips the thread pool of the batch path."""
        backend = self._backend
        # Lone surrogates (half of an emoji, from broken JSON) cannot cross into UTF-8: show them as U+FFFD.
        clean = [t if t.isascii() else well_formed(t) for t in texts]
        found = [backend.encode(clean[0])] if len(clean) == 1 else backend.encode_batch_fast(clean)
        ids = [e.ids for e in found]
        limit = self.max_length
        cut = [len(row) >= limit and bool(e.overflowing) for row, e in zip(ids, found, strict=True)]
        return Encoded(ids, cut)


_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """The text with every lone surrogate shown as U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


def pad(rows: Sequence[Sequence[int]], pad_id: int, length: int | None = None) -> tuple[Ids, Ids]:
    """Right-padded ids and mask, both (B, T) int64; T is the longest row, or `length` where that is more."""
    width = max(length or 0, max(map(len, rows)))
    if len(rows) == 1 and len(rows[0]) == width:
        ids = np.array(rows, dtype=np.int64)
        return ids, np.ones_like(ids)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask
