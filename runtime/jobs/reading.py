"""The rows of a file, a chunk at a time: never the whole file, whatever its size."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from attar.runtime.data_folders import column_names, pyarrow, unreadable
from attar.runtime.data_formats import csv_fields, csv_header, csv_row, json_row
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.jobs.columns import Column, Holds

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
DIALECTS = {".csv": csv.excel, ".tsv": csv.excel_tab}
EXACT = 1 << 53
"""Whole numbers below it are exact as float64."""

Values = Mapping[str, object]
Row = tuple[str, Values | DataError]
"""Where it is ("x.csv: line 7"), and its values by column, or why they cannot be read."""


@dataclass(frozen=True)
class Chunk:
    """Some rows; `batch`: the same as an Arrow record batch with all of their columns, where they are of Parquet."""

    rows: list[Row]
    batch: Any = None


@dataclass(frozen=True)
class Source:
    """A file of rows.

    Attributes:
        path: the file.
        names: of its columns.
        total: how many rows it has.
        chunks: called with how many rows to leave out at first, how many a chunk holds at most, and the columns whose
            values are asked for; a text file gives all.
        columns: what the columns of a text file hold.
        schema: the Arrow schema of a Parquet file, else None.
    """

    path: Path
    names: tuple[str, ...]
    total: int
    chunks: Callable[[int, int, Sequence[str]], Iterator[Chunk]]
    columns: tuple[Column, ...] = ()
    schema: Any = None


def open_source(path: Path) -> Source:
    """The file, by its ending. A text file is read once for its columns and the number of its rows.

    Raises SettingsError for an unknown ending, DataError for a file that cannot be read.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise SettingsError(f"{path}: a job reads {', '.join(ENDINGS)}, not {ending or 'a name without an ending'!r}")
    try:
        return _parquet(path) if ending == ".parquet" else _text(path, ending)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; check the path (seen from {Path.cwd()})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file and its permissions") from error


def _text(path: Path, ending: str) -> Source:
    if ending == ".txt":
        raw, parse, columns, total = _plain(path)
    else:
        raw, parse, columns, total = _json(path) if ending in (".jsonl", ".ndjson") else _csv(path, DIALECTS[ending])
    if not columns:
        raise DataError(f"{path}: is empty; give a file with at least one row")

    def chunks(skip: int, size: int, _: Sequence[str]) -> Iterator[Chunk]:
        rows = islice(raw(), skip, total)  # a file that grows meanwhile has an end all the same
        while part := list(islice(rows, size)):
            yield Chunk([(f"{path}: {where}", _parsed(parse, where, each)) for where, each in part])

    return Source(path, tuple(c.name for c in columns), total, chunks, columns)


def _parsed(parse: Callable[[str, Any], Values], where: str, raw: Any) -> Values | DataError:
    try:
        return parse(where, raw)
    except DataError as error:
        return error


Raw = Callable[[], Iterator[tuple[str, Any]]]
"""Where each row is and what is written there, which is parsed only where it is asked for."""
Text = tuple[Raw, Callable[[str, Any], Values], tuple[Column, ...], int]
"""The rows, what makes values of one, what the columns hold, and the number of rows."""

_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def _lines(path: Path, newline: str) -> Iterator[str]:
    """The lines with their ends; bytes that are not UTF-8 become surrogates, which `_utf8` finds in their row."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline=newline) as file:
        for number, line in enumerate(file):
            yield line if number else line.removeprefix("\ufeff")


def _utf8(path: Path, where: str, text: str) -> str:
    if not text.isascii() and (found := _NOT_UTF8.search(text)):
        raise DataError(
            f"{path}: {where}: not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} behind {found.start()} characters; "
            f"re-save the file as UTF-8, such as: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > fixed{path.suffix}"
        )
    return text


def _plain(path: Path) -> Text:
    """A text a line; blank lines at the end are none."""

    def raw() -> Iterator[tuple[str, str]]:
        blank = 0
        for number, line in enumerate(_lines(path, "\n"), 1):
            text = line.removesuffix("\n").removesuffix("\r")
            if not text:
                blank += 1
                continue
            yield from ((f"line {number - back}", "") for back in range(blank, 0, -1))
            blank = 0
            yield f"line {number}", text

    total = sum(1 for _ in raw())
    columns = (Column("text", "string"),) if total else ()
    return raw, lambda where, text: {"text": _utf8(path, where, text)}, columns, total


def _csv(path: Path, dialect: type[csv.Dialect]) -> Text:
    def fields() -> Iterator[tuple[str, list[str]]]:
        return csv_fields(path, _lines(path, ""), dialect)

    where, first = next(fields(), ("line 1", []))
    header = [_utf8(path, where, name) for name in csv_header(path, where, first)]

    def parse(where: str, values: list[str]) -> Values:
        return csv_row(path, where, header, [_utf8(path, where, value) for value in values])

    total = sum(1 for _ in islice(fields(), 1, None))
    return lambda: islice(fields(), 1, None), parse, tuple(Column(name, "string") for name in header), total


def _json(path: Path) -> Text:
    """An object a line; blank lines are none. The columns are all keys there are, in the order of their appearance."""

    def raw() -> Iterator[tuple[str, str]]:
        return ((f"line {n}", line) for n, line in enumerate(_lines(path, "\n"), 1) if line.strip())

    def parse(where: str, line: str) -> Values:
        return json_row(path, where, _utf8(path, where, line))

    forms: dict[str, set[str]] = {}
    total = 0
    for where, line in raw():
        total += 1
        row = _parsed(parse, where, line)
        for key, value in row.items() if not isinstance(row, DataError) else ():
            forms.setdefault(key, set()).add(_form(value))
    return raw, parse, tuple(Column(key, _holds(found)) for key, found in forms.items()), total


def _form(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -EXACT <= value <= EXACT else "long" if -(1 << 63) <= value < 1 << 63 else "json"
    if isinstance(value, float):
        return "double"
    return "null" if value is None else "string" if isinstance(value, str) else "json"


def _holds(forms: set[str]) -> Holds:
    """What holds all values of these forms; text in JSON, if nothing simpler does."""
    simple: tuple[tuple[Holds, set[str]], ...] = (
        ("string", {"null", "string"}),
        ("bool", {"null", "bool"}),
        ("int", {"null", "int", "long"}),
        ("double", {"null", "int", "double"}),
    )
    return next((holds for holds, enough in simple if forms <= enough), "json")


def _parquet(path: Path) -> Source:
    parquet, arrow = pyarrow("pyarrow.parquet"), pyarrow("pyarrow")
    with _readable(path), parquet.ParquetFile(path) as file:
        schema, total = file.schema_arrow, file.metadata.num_rows
    names = column_names(path, schema)

    def chunks(skip: int, size: int, wanted: Sequence[str]) -> Iterator[Chunk]:
        with _readable(path), parquet.ParquetFile(path) as file:
            number = group = 0
            while group < file.num_row_groups and number + file.metadata.row_group(group).num_rows <= skip:
                number += file.metadata.row_group(group).num_rows
                group += 1
            groups = list(range(group, file.num_row_groups))
            for whole in file.iter_batches(batch_size=size, row_groups=groups) if groups else ():
                batch = whole.slice(max(0, skip - number))
                number += whole.num_rows
                if batch.num_rows:
                    batch.validate(full=True)  # finds text that is not UTF-8
                    values = _pylist(arrow, path, batch.select(list(wanted)))
                    first = number - batch.num_rows + 1
                    yield Chunk([(f"{path}: row {n}", row) for n, row in enumerate(values, first)], batch)

    return Source(path, names, total, chunks, schema=schema)


class _readable:  # noqa: N801  a context manager reads as a verb
    """Turns what pyarrow raises for a damaged file into a DataError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        missing = isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError)
        if isinstance(error, (pyarrow("pyarrow").ArrowException, OSError)) and not missing:
            raise unreadable(self._path, error) from error


def _pylist(arrow: Any, path: Path, batch: Any) -> list[dict[str, Any]]:
    """Rows of plain values; times, dates and decimals as text. DataError for what neither JSON nor CSV can hold."""
    types = arrow.types
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        inner = column.type.value_type if types.is_dictionary(column.type) else column.type
        if types.is_temporal(inner) or types.is_decimal(inner):
            column = column.cast(inner).cast(arrow.string())
        elif not _plain_type(types, inner):
            raise DataError(
                f"{path}: column {name!r} is of type {column.type}, which is no text, and which only .parquet can hold"
            )
        columns.append(column)
    rows: list[dict[str, Any]] = arrow.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return rows


def _plain_type(types: Any, kind: Any) -> bool:
    """Whether values of an Arrow type are texts, numbers, truth values, or lists and objects of them."""
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _plain_type(types, kind.value_type)
    if types.is_struct(kind):
        return all(_plain_type(types, kind.field(i).type) for i in range(kind.num_fields))
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(
        text or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind)
    )
