"""Word vectors that somebody else trained: GloVe's text files (Pennington et al. 2014), or an array and its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attar.distill.data.assets import fetch
from attar.distill.data.neighbours import Floats
from attar.runtime.data_formats import read_table
from attar.runtime.errors import AssetError, DataError

ASSET = "glove-6b-50d"
WORDS = (".parquet", ".txt")


@dataclass(frozen=True)
class Vectors:
    """Words, usually the most frequent first, and their vectors (N, D)."""

    words: tuple[str, ...]
    table: Floats


def read_vectors(spec: str, *, cache: Path | None = None) -> Vectors:
    """'asset:glove-6b-50d', a text file with `word v1 v2 ...` a line, or a folder of one .npy (N, D) and one .txt or
    .parquet with its N words.

    Raises AssetError for another asset, DataError, naming file and line, for what cannot be read, and
    MissingExtraError for a .parquet without pyarrow.
    """
    if spec.startswith("asset:"):
        if spec != f"asset:{ASSET}":
            raise AssetError(f"there are no vectors {spec!r}; the known ones are asset:{ASSET}")
        path = fetch(ASSET, cache=cache)
    else:
        path = Path(spec).expanduser()
    try:
        found = _of_folder(path) if path.is_dir() else _of_text(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file or folder of vectors; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give GloVe's text format in UTF-8") from error
    if not len(found.table) or not np.isfinite(found.table).all():
        raise DataError(f"{path}: the vectors are none, or not all of them finite numbers; give others")
    return found


def _of_folder(folder: Path) -> Vectors:
    arrays = sorted(folder.glob("*.npy"))
    lists = sorted(file for file in folder.iterdir() if file.suffix in WORDS)
    if len(arrays) != 1 or len(lists) != 1:
        raise DataError(
            f"{folder}: holds {len(arrays)} .npy and {len(lists)} {' or '.join(WORDS)}; one array of vectors is needed "
            "and one file with its words"
        )
    try:
        table = np.load(arrays[0], allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{arrays[0]}: is no array of numbers ({error}); save the vectors again") from error
    words = read_table(lists[0], "embeddings", labelled=False)
    names = tuple(str(row[words.columns[0]]) for _, row in words.rows(words.columns[:1]))
    if table.ndim != 2 or len(table) != len(names) or table.dtype.kind != "f":
        raise DataError(
            f"{arrays[0]}: has numbers of type {table.dtype} in the shape {table.shape}, and {lists[0].name} "
            f"{len(names)} words; give a vector of floats for each word"
        )
    return Vectors(names, np.asarray(table, dtype=np.float32))


def _of_text(path: Path) -> Vectors:
    words: list[str] = []
    rows: list[Floats] = []
    for number, fields in _lines(path):
        width = len(rows[0]) if rows else len(fields) - 1
        if width < 1 or len(fields) <= width:
            raise DataError(f"{path}: line {number}: is not a word and {width or 'its'} numbers; mend it")
        try:
            rows.append(np.array(fields[-width:], dtype=np.float32))
        except ValueError as error:
            raise DataError(f"{path}: line {number}: is not a word and {width} numbers ({error}); mend it") from error
        # A few of GloVe's words have blanks in them.
        words.append(" ".join(fields[:-width]))
    return Vectors(tuple(words), np.stack(rows) if rows else np.zeros((0, 0), np.float32))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line, without the counts that word2vec's format begins with."""
    # Words may hold characters that count as line ends elsewhere.
    with path.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip(" \r\n").split(" ")
            if number > 1 or len(fields) != 2 or not all(field.isdecimal() for field in fields):
                yield number, fields
