"""Files as tables: csv, tsv, JSON and JSON lines, a text a line, CoNLL's token a line, SQuAD's nested JSON."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attar.runtime.errors import DataError

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".conll", ".iob", ".bio")

Row = tuple[str, Mapping[str, object]]
"""Where it is ("line 7"), and its values by column."""


@dataclass(frozen=True)
class Table:
    """What a reader found. `rows` gives the rows, of which a caller may count on the columns it names.

    `class_names`: those of columns of integers, or of lists of integers.
    """

    columns: tuple[str, ...]
    rows: Callable[[Sequence[str]], Iterable[Row]]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_table(path: Path, kind: str, *, labelled: bool) -> Table:
    """One file as a Table, by its ending. Raises DataError for an unknown ending or a malformed file.

    What a .txt or .json file looks like depends on the task's `kind`: labelled tokens are CoNLL, and questions
    may be nested as in SQuAD.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        # Imported here: that module uses this one's readers.
        from attar.runtime.data_folders import read_parquet

        return read_parquet(path)
    if ending not in ENDINGS:
        raise DataError(f"{path}: unknown file ending {ending!r}; attar reads {', '.join(ENDINGS)}")
    content = _decode(path)
    if ending in (".conll", ".iob", ".bio") or (ending == ".txt" and labelled and kind == "token-classification"):
        return _table(("tokens", "tags"), list(_conll(path, content)))
    if ending == ".txt":
        return _table(("text",), [(f"line {n}", {"text": line}) for n, line in enumerate(_lines(content), 1)])
    if ending == ".csv":
        return _read_csv(path, content, csv.excel)
    if ending == ".tsv":
        return _read_csv(path, content, csv.excel_tab)
    return _read_json(path, content, kind, labelled=labelled) if ending == ".json" else _read_jsonl(path, content)


def _table(columns: tuple[str, ...], rows: list[Row]) -> Table:
    return Table(columns, lambda _columns: rows)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    try:
        # Not "utf-8-sig": with it the error's offset would not count the byte order mark.
        content = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}); "
            f"re-save it as UTF-8, such as: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > fixed{path.suffix}"
        ) from error
    if not content.strip():
        raise DataError(f"{path}: is empty; give a file with at least one example")
    return content


def _lines(content: str) -> list[str]:
    # Not splitlines(): U+2028 and its like are legal inside a JSON string and inside a text.
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _conll(path: Path, content: str) -> Iterator[Row]:
    """A row a sentence: `tokens` from the first column, `tags` from the last; the row is where its first token is."""
    tokens: list[str] = []
    tags: list[str] = []
    first, width, width_line = 0, 0, 0
    for number, line in enumerate([*_lines(content), ""], 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if tokens:
                yield f"line {first}", {"tokens": tokens, "tags": tags}
            tokens, tags = [], []
            continue
        fields = [part.strip() for part in line.strip().split("\t")] if "\t" in line else line.split()
        if len(fields) < 2:
            raise DataError(f"{path}: line {number}: holds {line!r} alone; write a token and its tag, or a blank line")
        if not width:
            width, width_line = len(fields), number
        if len(fields) != width:
            raise DataError(
                f"{path}: line {number}: {len(fields)} columns, but line {width_line} has {width}; "
                "write a token a line, and in every line the same columns, the tag last"
            )
        first = first if tokens else number
        tokens.append(fields[0])
        tags.append(fields[-1])


def csv_fields(path: Path, lines: Iterable[str], dialect: type[csv.Dialect]) -> Iterator[tuple[str, list[str]]]:
    """Where each record is, and its fields, those of the header first; blank lines are left out."""
    # Strict: a stray quote must not silently swallow the lines that follow it.
    reader = csv.reader(lines, dialect, strict=True)
    line = 1
    try:
        for values in reader:
            where, line = f"line {line}", reader.line_num + 1
            if values:
                yield where, values
    except csv.Error as error:
        raise DataError(
            f'{path}: line {line}: {error}; write a " inside a quoted field as "", or save the file as JSON lines'
        ) from error


def csv_header(path: Path, where: str, values: Sequence[str]) -> list[str]:
    """The columns' names. Raises DataError where one stands twice."""
    header = [name.strip() for name in values]
    if len(set(header)) != len(header):
        raise DataError(f"{path}: {where}: a column name stands twice in {header}; rename one of them")
    return header


def csv_row(path: Path, where: str, header: Sequence[str], values: Sequence[str]) -> dict[str, object]:
    """A record's fields by column. Raises DataError for more or fewer than the header has."""
    if len(values) != len(header):
        raise DataError(
            f"{path}: {where}: {len(values)} fields, but the header has {len(header)}; put a field "
            'that holds the separator or a line break in "double quotes"'
        )
    return dict(zip(header, values, strict=True))


def _read_csv(path: Path, content: str, dialect: type[csv.Dialect]) -> Table:
    header: list[str] | None = None
    rows: list[Row] = []
    for where, values in csv_fields(path, io.StringIO(content, newline=""), dialect):
        if header is None:
            header = csv_header(path, where, values)
        else:
            rows.append((where, csv_row(path, where, header, values)))
    return _table(tuple(header or ()), rows)


def _read_json(path: Path, content: str, kind: str, *, labelled: bool) -> Table:
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: is not valid JSON ({error}); mend it, or name it .jsonl if it has an object a line"
        ) from error
    # Without its labels, SQuAD's contexts and questions are texts for any task.
    if isinstance(items, dict) and (kind == "question-answering" or ("data" in items and not labelled)):
        return _table(("question", "context", "answers"), list(_squad(path, items)))
    if not isinstance(items, list):
        raise DataError(f'{path}: must be a list of objects, as in [{{"text": "...", "label": "..."}}]')
    return _keyed([(f"row {n}", _object(path, f"row {n}", item)) for n, item in enumerate(items, 1)])


def _squad(path: Path, items: Mapping[str, object]) -> Iterator[Row]:
    """A row a question of {"data": [{"paragraphs": [{"context", "qas": [{"question", "answers"}]}]}]}."""
    for article, where in _nested(path, items, "data", ""):
        for paragraph, inside in _nested(path, article, "paragraphs", where):
            for qa, place in _nested(path, paragraph, "qas", inside):
                if qa.get("is_impossible") and qa.get("answers"):
                    raise DataError(f"{path}: {place}: is_impossible is true, but it has answers; remove one of them")
                answers = [] if qa.get("is_impossible") else qa.get("answers")
                yield place, {"context": paragraph.get("context"), "question": qa.get("question"), "answers": answers}


def _nested(path: Path, parent: Mapping[str, object], key: str, where: str) -> Iterator[tuple[dict[str, object], str]]:
    children = parent.get(key)
    if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
        place = f"{path}: {where}" if where else f"{path}"
        raise DataError(
            f"{place}: has no list of objects {key!r}; give SQuAD's data, paragraphs and qas, or a list of "
            "objects with question, context and answers"
        )
    for number, child in enumerate(children, 1):
        yield child, f"{where}, {key} {number}" if where else f"{key} {number}"


def _read_jsonl(path: Path, content: str) -> Table:
    lines = [(f"line {number}", line) for number, line in enumerate(_lines(content), 1) if line.strip()]
    return _keyed([(where, json_row(path, where, line)) for where, line in lines])


def json_row(path: Path, where: str, line: str) -> dict[str, object]:
    """The object of one line of JSON. Raises DataError for anything else."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: {where}: is not valid JSON ({error}); write one object a line") from error
    return _object(path, where, item)


def _object(path: Path, where: str, item: object) -> dict[str, object]:
    if not isinstance(item, dict):
        raise DataError(f'{path}: {where}: is not an object; write {{"text": "...", "label": "..."}}')
    return item


def _keyed(rows: list[Row]) -> Table:
    return _table(tuple(dict.fromkeys(key for _, row in rows for key in row)), rows)
