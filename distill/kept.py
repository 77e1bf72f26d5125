"""What a teacher said, on disk: packed arrays in a folder, and which rows they are about.

A folder `targets-KEY` holds `NAME.npy` for every output and state, and `rows.npy`: of each row a digest of its token
ids and of the teacher, and its length. By these a folder for other texts copies the rows that it shares. A pass that
was interrupted leaves such a folder too, `targets-KEY.xxxx`, in which rows that it did not reach have a digest of 0;
the next pass copies what is there like any neighbour's and removes it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.tokenizer import Encoded

ROWS = "rows.npy"
FOLDERS = "targets-*"
SECONDS = 60.0
"""At most so much work is lost when a process is killed."""


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
    """Arrays being written to a folder beside `cache`, opened when their first values come; a context manager.

    `rows`: digests of all rows, see `digests`. `packed`: names with values of every token, (T, C), of which row i has
    starts[i]:starts[i + 1]; of the others each row has one, (R, C). An error leaves nothing, an interruption what was
    done.
    """

    def __init__(self, cache: Path, rows: NDArray[np.uint64], packed: Collection[str]) -> None:
        self._cache, self._rows, self.packed = cache, rows, packed
        self._starts = bounds(rows[:, 2].astype(np.int64))
        self._done = np.zeros(len(rows), dtype=bool)
        self._open: dict[str, Any] = {}
        self._due = time.monotonic() + SECONDS
        cache.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=cache.parent, prefix=f"{cache.name}."))

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception) or not self._done.any():
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            self._keep()

    def _store(self, name: str, columns: int, dtype: np.dtype[Any]) -> Any:
        if name not in self._open:
            rows = int(self._starts[-1]) if name in self.packed else len(self._starts) - 1
            path = self._folder / f"{name}.npy"
            self._open[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, columns))
        return self._open[name]

    def done(self, rows: Sequence[int]) -> None:
        """All values of these rows are in; now and then that is noted on disk."""
        self._done[rows] = True
        if time.monotonic() >= self._due:
            self._keep()

    def _keep(self) -> None:
        """Values before the note of whose they are, which is whole or the older one."""
        for store in self._open.values():
            store.flush()
        noted = self._rows.copy()
        noted[~self._done, :2] = 0
        with tempfile.TemporaryDirectory(dir=self._folder) as place:
            np.save(Path(place) / ROWS, noted)
            (Path(place) / ROWS).replace(self._folder / ROWS)
        self._due = time.monotonic() + SECONDS

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

    def publish(self) -> None:
        """Whole files, by name, to where they are looked for."""
        for name, store in self._open.items():
            store.flush()
            (self._folder / f"{name}.npy").replace(self._cache / f"{name}.npy")
        if stored(self._cache / ROWS, len(self._rows), 3, self._rows.dtype) is None:
            np.save(self._cache / ROWS, self._rows)

    def reuse(self, names: Sequence[str]) -> list[int]:
        """Takes over what neighbours of the cache have of the rows under every name; the rows that are left.

        What interrupted passes for this cache left is removed then.
        """
        left = reused(self._cache, self._rows, names, self)
        self.done(sorted(set(range(len(self._rows))) - set(left)))
        if older := [f for f in self._cache.parent.glob(f"{self._cache.name}.*") if f != self._folder]:
            self._keep()
            for folder in older:
                shutil.rmtree(folder, ignore_errors=True)
        return left


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
