"""Rows with their answers as bytes that a file is made of, whatever the sizes of the chunks that they come in."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from attar.runtime.data_folders import pyarrow
from attar.runtime.errors import SettingsError
from attar.runtime.jobs.columns import Column, Holds, Layout
from attar.runtime.jobs.reading import DIALECTS, Chunk, Source, Values
from attar.runtime.tokenizer import clean

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")
GROUP = 16_384
"""Rows of a row group in Parquet: with 384 floats each, 25 MB."""

Answers = Sequence[tuple[Any, ...]]
"""The values of the answer's columns, a tuple a row that is kept."""


class Sink(Protocol):
    """A format. What `head` and `encode` give is put one behind the other in a file of its own, the rows.

    `whole`: it writes the values of all columns, and not an Arrow record batch.
    """

    whole: ClassVar[bool]

    def head(self) -> bytes:
        """What the rows begin with."""
        ...

    def encode(self, chunk: Chunk, kept: Sequence[int], answers: Answers) -> bytes:
        """The rows of a chunk that are kept, with their answers."""
        ...

    def finish(self, rows: Path, made: Path) -> Path:
        """The finished file: `rows` itself, or `made` of it."""
        ...


def sink(target: Path, source: Source, made: Layout) -> Sink:
    """The format that the target's ending says. Raises SettingsError for an unknown one."""
    check_ending(target)
    ending = target.suffix.lower()
    names = tuple(column.name for column in made.columns)
    if ending in DIALECTS:
        return Delimited(DIALECTS[ending], source.names, names)
    return JsonLines(names) if ending != ".parquet" else Parquet(source, made.columns)


def check_ending(target: Path) -> None:
    """Raises SettingsError for a file that no format here writes."""
    if target.suffix.lower() not in ENDINGS:
        raise SettingsError(
            f"{target}: a job writes {', '.join(ENDINGS)}, not {target.suffix or 'a name without an ending'!r}"
        )


@dataclass(frozen=True)
class JsonLines:
    """An object a row: its values as they were read, then the answer's."""

    names: tuple[str, ...]

    whole: ClassVar[bool] = True

    def head(self) -> bytes:
        return b""

    def encode(self, chunk: Chunk, kept: Sequence[int], answers: Answers) -> bytes:
        lines = []
        for i, answer in zip(kept, answers, strict=True):
            added = zip(self.names, map(_plain, answer), strict=True)
            lines.append(_json({**_values(chunk, i), **dict(added)}))
        return b"".join(lines)

    def finish(self, rows: Path, made: Path) -> Path:
        return rows


@dataclass(frozen=True)
class Delimited:
    """A header and a record a row; null is an empty field, lists and objects are JSON."""

    dialect: type[csv.Dialect]
    columns: tuple[str, ...]
    names: tuple[str, ...]

    whole: ClassVar[bool] = True

    def head(self) -> bytes:
        return self._records([[*self.columns, *self.names]])

    def encode(self, chunk: Chunk, kept: Sequence[int], answers: Answers) -> bytes:
        records = []
        for i, answer in zip(kept, answers, strict=True):
            values = _values(chunk, i)
            records.append([*(values.get(name) for name in self.columns), *answer])
        return self._records([[_field(value) for value in record] for record in records])

    def _records(self, records: Sequence[Sequence[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, self.dialect, lineterminator="\n").writerows(records)
        return clean(text.getvalue()).encode()

    def finish(self, rows: Path, made: Path) -> Path:
        return rows


class Parquet:
    """Row groups of equal size. Until they are made, the rows are Arrow streams, one a chunk."""

    whole: ClassVar[bool] = False

    def __init__(self, source: Source, added: Sequence[Column]) -> None:
        self._arrow, self._ipc = pyarrow("pyarrow"), pyarrow("pyarrow.ipc")
        self._given, self._added = source.columns, tuple(added)
        kept = (
            [self._arrow_field(c) for c in source.columns] if source.schema is None else map(self._kept, source.schema)
        )
        # Without the file's own metadata, which describes the columns that it had.
        self._schema = self._arrow.schema([*kept, *map(self._arrow_field, added)])

    def _kept(self, field: Any) -> Any:
        """The field as it is, but for a dictionary, whose order would tell how the rows came."""
        return field.with_type(field.type.value_type) if self._arrow.types.is_dictionary(field.type) else field

    def head(self) -> bytes:
        return b""

    def encode(self, chunk: Chunk, kept: Sequence[int], answers: Answers) -> bytes:
        if chunk.batch is not None:
            whole = len(kept) == chunk.batch.num_rows
            batch = chunk.batch if whole else chunk.batch.take(self._arrow.array(kept, self._arrow.int64()))
            arrays = [c.dictionary_decode() if self._arrow.types.is_dictionary(c.type) else c for c in batch.columns]
        else:
            rows = [_values(chunk, i) for i in kept]
            arrays = [self._array(c, [_stored(c.holds, row.get(c.name)) for row in rows]) for c in self._given]
        answered = zip(*answers, strict=True) if answers else ([] for _ in self._added)
        arrays = [*arrays, *(self._array(c, list(v)) for c, v in zip(self._added, answered, strict=True))]
        out = self._arrow.BufferOutputStream()
        with self._ipc.new_stream(out, self._schema, options=self._ipc.IpcWriteOptions(compression="lz4")) as stream:
            stream.write_batch(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
        content: bytes = out.getvalue().to_pybytes()
        return content

    def finish(self, rows: Path, made: Path) -> Path:
        """Groups of `GROUP` rows, each in one piece: the bytes do not tell how the rows came."""
        parquet = pyarrow("pyarrow.parquet")
        waiting: list[Any] = []
        with self._arrow.OSFile(str(rows)) as file, parquet.ParquetWriter(made, self._schema) as writer:
            while file.tell() < file.size():
                for batch in self._ipc.open_stream(file):
                    waiting.append(batch)
                    while sum(each.num_rows for each in waiting) >= GROUP:
                        table = self._table(waiting)
                        writer.write_table(table.slice(0, GROUP).combine_chunks(), GROUP)
                        waiting = table.slice(GROUP).to_batches()
            if any(each.num_rows for each in waiting):
                writer.write_table(self._table(waiting).combine_chunks(), GROUP)
        return made

    def _table(self, batches: Sequence[Any]) -> Any:
        return self._arrow.Table.from_batches(batches, self._schema)

    def _array(self, column: Column, values: list[Any]) -> Any:
        return self._arrow.array(values, self._arrow_field(column).type)

    def _arrow_field(self, column: Column) -> Any:
        arrow = self._arrow
        simple = {"string": arrow.string(), "json": arrow.string(), "int": arrow.int64(), "double": arrow.float64()}
        lists = {"strings": arrow.list_(arrow.string()), "vector": arrow.list_(arrow.float32()), "bool": arrow.bool_()}
        if column.holds == "objects":
            return arrow.field(column.name, arrow.list_(arrow.struct([(n, simple[h]) for n, h in column.fields])))
        return arrow.field(column.name, {**simple, **lists}[column.holds])


def _values(chunk: Chunk, row: int) -> Values:
    """The values of a row; none of one that could not be read."""
    values = chunk.rows[row][1]
    return {} if isinstance(values, Exception) else values


def _plain(value: Any) -> Any:
    """A vector as a list; anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def _json(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number that JSON does not have
        text = json.dumps(_finite(value), ensure_ascii=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can only write as an escape
        return json.dumps(_finite(value)).encode() + b"\n"


def _finite(value: Any) -> Any:
    """The value with null for every number that is not one."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _field(value: Any) -> str:
    """A value as a field of CSV."""
    if value is None:
        return ""
    return value if isinstance(value, str) else clean(_json(_plain(value)).decode().removesuffix("\n"))


def _stored(holds: Holds, value: Any) -> Any:
    """A value read from text as its column holds it."""
    if value is None:
        return None
    if holds == "json":
        return _json(value).decode().removesuffix("\n")
    return clean(value) if holds == "string" else float(value) if holds == "double" else value
