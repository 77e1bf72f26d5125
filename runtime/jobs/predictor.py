"""A model as a plain function of columns, for Ray Data, Spark and their like: what outgrows one machine.

    predict = Predictor("build/sentiment/bundle", column="text")

    # Ray Data
    ray.data.read_parquet("x.parquet").map_batches(predict, batch_format="numpy").write_parquet("y")

    # Spark
    def answered(frames):
        for frame in frames:
            yield pandas.DataFrame(predict({name: frame[name].to_numpy() for name in frame}))

    spark.read.parquet("x.parquet").mapInPandas(answered, "id long, text string, label string, score double, ...")

`benchmarks/ray_job.py` and `benchmarks/spark_job.py` compare every answer with those of a job on one machine.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import BundleError
from attar.runtime.jobs.answering import OnError, answerer, check_on_error
from attar.runtime.jobs.columns import Column
from attar.runtime.model import Model, load


@dataclass(frozen=True)
class Predictor:
    """Batches of columns in, the same with the answer's columns out; as small as its arguments where it is pickled.

    The bundle is loaded by the process that first calls it, and kept for all later calls there. Texts, and lists and
    objects as JSON, are arrays of objects; a vector is a row of float32 (N, D), of NaN where there is no answer.

    Attributes:
        path: of the bundle, as every worker sees it.
        column: of the texts, or two with a comma between them; by default the first of the usual names.
        prefix: in front of the names of the answer's columns.
        on_error: what is done about a row whose text is null, blank or no text: `stop`, `skip` or `null`.
        threads: of one call; by default the cores that the worker may use, which several workers on one machine share.
        options: of the task, as for `load`.
    """

    path: str
    column: str | None = None
    prefix: str = ""
    on_error: OnError = "stop"
    threads: int | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_on_error(self.on_error)
        object.__setattr__(self, "path", os.fspath(self.path))

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Columns of N values each, with those of the answers; with `skip`, less the bad rows.

        Raises DataError, that names the row of the batch, for a bad row with `stop`, and for a missing column.
        """
        model = _model(self.path, _stamp(self.path), self.threads, json.dumps(dict(self.options or {}), default=list))
        answer = answerer(model, "the batch", list(batch), self.column, self.prefix, self.on_error)
        names = answer.record.columns
        columns = [np.asarray(batch[name]).tolist() for name in names]
        rows = [
            (f"row {number} of the batch", dict(zip(names, values, strict=True)))
            for number, values in enumerate(zip(*columns, strict=True), 1)
        ]
        found = answer(rows)
        kept = {name: values if len(found.kept) == len(rows) else values[found.kept] for name, values in batch.items()}
        added = enumerate(answer.made.columns)
        return {**kept, **{column.name: _array(column, [row[i] for row in found.values]) for i, column in added}}


def _stamp(path: str) -> tuple[int, int]:
    """Tells whether the bundle at a path is still the one that was loaded: a new one takes the place of the old."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise BundleError(f"no bundle at {path}: every worker must see it at this path ({error})") from error
    return found.st_ino, found.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _model(path: str, stamp: tuple[int, int], threads: int | None, options: str) -> Model:
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(options).items()}
    return load(path, threads=threads, options=given)


def _array(column: Column, values: list[Any]) -> NDArray[Any]:
    if column.holds == "vector":
        width = next((len(value) for value in values if value is not None), 0)
        empty = np.full(width, np.nan, dtype=np.float32)
        return np.array([empty if value is None else value for value in values], dtype=np.float32)
    if column.holds == "double":
        return np.array(values, dtype=np.float64)  # None becomes NaN
    if column.holds in ("bool", "int") and None not in values:
        return np.array(values, dtype=np.bool_ if column.holds == "bool" else np.int64)
    text = [
        v if v is None or column.holds not in ("strings", "objects") else json.dumps(v, ensure_ascii=False)
        for v in values
    ]
    array = np.empty(len(text), dtype=object)
    array[:] = text
    return array
