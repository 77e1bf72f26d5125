"""What the scripts about jobs share: rows of words, and the answers of `answer_file` to compare with."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attar.runtime.jobs import answer_file
from attar.runtime.model import load

WORDS = "a the film plot cast was is not very quite good great fine gripping funny bad awful dull slow and but of"


def arguments(about: str | None) -> argparse.Namespace:
    """The bundle, how many rows, and how many workers."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=lambda path: Path(path).resolve(), help="of a classifier of single texts")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def write_rows(path: Path, rows: int) -> Path:
    """A Parquet file of an id and a text of 4 to 60 words, in row groups of 10,000."""
    rng, words = random.Random(0), WORDS.split()
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 10_000):
            ids = list(range(start, min(start + 10_000, rows)))
            texts = [" ".join(rng.choices(words, k=rng.randint(4, 60))) for _ in ids]
            writer.write_table(pa.table({"id": ids, "text": texts}, schema))
    return path


def one_machine(bundle: Path, rows: int, scratch: Path) -> tuple[Path, pa.Table]:
    """A file of rows, and what `answer_file` makes of it."""
    source = write_rows(scratch / "x.parquet", rows)
    answer_file(load(bundle, threads=1), source, scratch / "y.parquet")
    return source, pq.read_table(scratch / "y.parquet")


def compare(name: str, folder: Path, wanted: pa.Table) -> None:
    """Says how many rows a job on several workers wrote, and refuses any difference from the one on one machine."""
    found = pq.read_table(folder).sort_by("id")
    for column in wanted.column_names:
        if found[column].to_pylist() != wanted[column].to_pylist():
            raise SystemExit(f"{name}: column {column!r} differs")
    print(f"{name}: {found.num_rows} rows in {len(list(folder.glob('*.parquet')))} files, all equal, bit for bit")
