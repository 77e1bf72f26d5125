"""Files of rows for the tests of jobs, written and read by other readers than those under test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = ["a good film", "the awful dull film", 'fine, "great"\nand good', "zoqx", "good " * 20]
ANSWERS = [("positive", 0.7310586, False), ("negative", 0.8807971, False), ("positive", 0.9525741, False)]
ANSWERS += [("negative", 0.5, False), ("positive", 0.9999997, True)]
"""By hand: 1 / (1 + exp(-k)) of k = 1, 2, 3 and 0 words, and of 15, which is what 16 tokens leave of 20."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the file that the ending says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file by readers of others."""
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab" if path.suffix == ".tsv" else "excel"))
