"""What a teacher said, on disk: packed arrays in a folder, and which rows they are about.

A folder `targets-KEY` holds `NAME.npy` for every output and state, and `rows.npy`: of each row a digest of its token
ids and of the teacher, and its length. By these a folder for other texts copies the rows that it shares.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.tokenizer import Encoded

ROWS = "rows.npy"
FOLDERS = "targets-*"


def digests(encoded: Encoded, about: str) -> NDArray[np.uint64]:
    """Of each row 128 bits over `about`, token ids and token types, and its length: (R, 3)."""
    found = np.empty((len(encoded.ids), 3), dtype=np.uint64)
    for row, ids in enumerate(encoded.ids):
        state = hashlib.blake2b(about.encode(), digest_size=16)
        for part in (ids, *(() if encoded.types is None else (encoded.types[row],))):
            state.update(np.asarray(part, dtype=np.int64).tobytes() + b"|")
        found[row, :2] = np.frombuffer(state.digest(), dtype=np.uint64)
        found[row, 2] = len(ids)
    return found


def stored(path: Path, rows: int | None, columns: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The array in a file; None where it is missing, cut short or of another form (None rows, 0 columns: any)."""
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = found.dtype == dtype and found.ndim == 2 and rows in (None, len(found)) and columns in (0, found.shape[1])
    return found if fits else None


def bounds(lengths: NDArray[Any] | Sequence[int]) -> NDArray[np.int64]:
    """Where each row's tokens begin in packed arrays, and where the last ends: (R + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


class Stores:
    """Arrays being written to a folder, opened when their first values come.

    `packed`: names with values of every token, (T, C), of which row i has starts[i]:starts[i + 1]; of the others each
    row has one, (R, C).
    """

    def __init__(self, folder: Path, starts: NDArray[np.int64], packed: Collection[str]) -> None:
        self._folder, self._starts, self.packed = folder, starts, packed
        self._open: dict[str, Any] = {}

    def _store(self, name: str, columns: int, dtype: np.dtype[Any]) -> Any:
        if name not in self._open:
            rows = int(self._starts[-1]) if name in self.packed else len(self._starts) - 1
            path = self._folder / f"{name}.npy"
            self._open[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, columns))
        return self._open[name]

    def put(self, name: str, values: NDArray[Any], rows: Sequence[int]) -> None:
        """The values of a batch, (B, T, C) padded on the right, or (B, C)."""
        store = self._store(name, values.shape[-1], values.dtype)
        if name not in self.packed:
            store[rows] = values
            return
        for place, row in enumerate(rows):
            start, end = self._starts[row : row + 2]
            store[start:end] = values[place, : end - start]

    def copy(
        self, name: str, source: NDArray[Any], theirs: NDArray[np.int64], pairs: Sequence[tuple[int, int]]
    ) -> None:
        """Rows of another folder's array whose tokens begin at `theirs`: (own row, its row) each."""
        store = self._store(name, source.shape[1], source.dtype)
        for row, other in pairs:
            if name in self.packed:
                start, end = self._starts[row : row + 2]
                store[start:end] = source[theirs[other] : theirs[other + 1]]
            else:
                store[row] = source[other]

    def publish(self, cache: Path) -> None:
        """Whole files, by name, to where they are looked for."""
        for name, store in self._open.items():
            store.flush()
            (self._folder / f"{name}.npy").replace(cache / f"{name}.npy")


def reused(cache: Path, rows: NDArray[np.uint64], names: Sequence[str], stores: Stores) -> list[int]:
    """Copies what neighbours of `cache` have of the rows under every name; the rows that are left."""
    wanted: dict[bytes, list[int]] = {}
    for row, digest in enumerate(rows):
        wanted.setdefault(digest.tobytes(), []).append(row)
    for folder in sorted(cache.parent.glob(FOLDERS)):
        theirs = stored(folder / ROWS, None, 3, np.dtype(np.uint64)) if folder != cache else None
        if theirs is None:
            continue
        starts = bounds(theirs[:, 2].astype(np.int64))
        sources = {}
        for name in names:
            count = int(starts[-1]) if name in stores.packed else len(theirs)
            kind = np.dtype(np.float32 if name.startswith("head-") else np.float16)
            sources[name] = stored(folder / f"{name}.npy", count, 0, kind)
        if any(source is None for source in sources.values()):
            continue
        pairs = [(row, other) for other, digest in enumerate(theirs) for row in wanted.pop(digest.tobytes(), [])]
        for name, source in sources.items():
            assert source is not None
            stores.copy(name, source, starts, pairs)
    return sorted(row for left in wanted.values() for row in left)
