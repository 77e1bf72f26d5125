"""Labelled and unlabelled texts, read from the files and folders that people have. Knows no torch.

Every reader turns its file into a `Table`: the columns found, and rows that say where they came from ("line
7"). One function then picks the columns and checks every row, so all formats make the same promises and fail
with the same words. The folders and the columnar formats (parquet, Hugging Face datasets) are in
`data_folders.py`.
"""

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attar.runtime.errors import DataError

TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL_COLUMNS = ("label", "labels", "class", "sentiment")
ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")


@dataclass(frozen=True)
class Examples:
    """Texts and, unless unlabelled, one label each. Raises DataError if their numbers differ."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    source: str

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.texts):
            raise DataError(
                f"{self.source}: {len(self.texts)} texts but {len(self.labels)} labels; give one label a text"
            )

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self) -> str:
        """The sha256 of texts and labels in their order, as hex. The source's name does not enter."""
        content = json.dumps([self.texts, self.labels], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Table:
    """What a reader found: columns, rows as (where, values), class names of integer label columns."""

    columns: tuple[str, ...]
    rows: Iterable[tuple[str, Mapping[str, object]]]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_examples(
    path: Path | str,
    *,
    text: str | None = None,
    label: str | None = None,
    split: str | None = None,
    require_labels: bool = True,
) -> Examples:
    """Read .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt (a text a line), or a `split` of a folder.

    A folder is one written by `datasets.save_to_disk`, or holds a file or parquet shards a split
    (train.jsonl, data/test-00000-of-00001.parquet). `text` and `label` name the columns; without them the
    first of TEXT_COLUMNS and of LABEL_COLUMNS that is there. With `require_labels=False` a missing label
    column, or one without any value, gives `labels=None`. Labels are trimmed strings; 1 and 1.0 are '1'.
    Raises DataError, naming file, row and remedy, and MissingExtraError where pyarrow is needed and absent.
    """
    path = Path(path)
    name = str(path)
    try:
        if path.is_dir():
            # Imported here: that module uses this one's readers.
            from attar.runtime.data_folders import read_folder

            name = f"{path} [{split}]" if split else name
            parts = read_folder(path, split)
        elif not path.exists():
            raise DataError(f"{path}: there is no such file or folder; check the path (seen from {Path.cwd()})")
        elif split is not None:
            raise DataError(
                f"{path}: is one file, so split={split!r} selects nothing; leave split out, or name a folder"
            )
        else:
            parts = [(str(path), read_table(path))]
        return _collect(name, parts, text, label, require_labels)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file and its permissions") from error


def read_table(path: Path) -> Table:
    """One file as a Table, by its ending. Raises DataError for an unknown ending or a malformed file."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        from attar.runtime.data_folders import read_parquet

        return read_parquet(path)
    if ending not in ENDINGS:
        raise DataError(f"{path}: unknown file ending {ending!r}; attar reads {', '.join(ENDINGS)}")
    content = _decode(path)
    if ending == ".txt":
        return _read_txt(content)
    if ending == ".csv":
        return _read_csv(path, content, csv.excel)
    if ending == ".tsv":
        return _read_csv(path, content, csv.excel_tab)
    return _read_json(path, content) if ending == ".json" else _read_jsonl(path, content)


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


def _read_txt(content: str) -> Table:
    return Table(("text",), [(f"line {n}", {"text": line}) for n, line in enumerate(_lines(content), 1)])


def _read_csv(path: Path, content: str, dialect: type[csv.Dialect]) -> Table:
    # Strict: a stray quote must not silently swallow the lines that follow it.
    reader = csv.reader(io.StringIO(content, newline=""), dialect, strict=True)
    header: list[str] | None = None
    rows: list[tuple[str, Mapping[str, object]]] = []
    line = 1
    try:
        for values in reader:
            where, line = f"line {line}", reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = [name.strip() for name in values]
                if len(set(header)) != len(header):
                    raise DataError(f"{path}: {where}: a column name stands twice in {header}; rename one of them")
            elif len(values) != len(header):
                raise DataError(
                    f"{path}: {where}: {len(values)} fields, but the header has {len(header)}; put a field "
                    'that holds the separator or a line break in "double quotes"'
                )
            else:
                rows.append((where, dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise DataError(
            f'{path}: line {line}: {error}; write a " inside a quoted field as "", or save the file as JSON lines'
        ) from error
    return Table(tuple(header or ()), rows)


def _read_json(path: Path, content: str) -> Table:
    try:
        items = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: is not valid JSON ({error}); mend it, or name it .jsonl if it has an object a line"
        ) from error
    if not isinstance(items, list):
        raise DataError(f'{path}: must be a list of objects, as in [{{"text": "...", "label": "..."}}]')
    return _objects(path, [(f"row {n}", item) for n, item in enumerate(items, 1)])


def _read_jsonl(path: Path, content: str) -> Table:
    items: list[tuple[str, object]] = []
    for number, line in enumerate(_lines(content), 1):
        if not line.strip():
            continue
        try:
            items.append((f"line {number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number}: is not valid JSON ({error}); write one object a line") from error
    return _objects(path, items)


def _objects(path: Path, items: list[tuple[str, object]]) -> Table:
    rows: list[tuple[str, Mapping[str, object]]] = []
    for where, item in items:
        if not isinstance(item, dict):
            raise DataError(f'{path}: {where}: is not an object; write {{"text": "...", "label": "..."}}')
        rows.append((where, item))
    return Table(tuple(dict.fromkeys(key for _, row in rows for key in row)), rows)


def _collect(
    name: str, parts: Iterable[tuple[str, Table]], text: str | None, label: str | None, require_labels: bool
) -> Examples:
    texts: list[str] = []
    labels: list[str | None] = []
    unlabelled = ""  # where the first row without a label is
    for file, table in parts:
        if not table.columns:
            continue
        text_column = _column(file, table.columns, text, TEXT_COLUMNS, "text", required=True)
        label_column = _column(file, table.columns, label, LABEL_COLUMNS, "label", required=require_labels)
        names = table.class_names.get(label_column or "")
        for where, row in table.rows:
            texts.append(_text(f"{file}: {where}", row, text_column or ""))
            value = _label(f"{file}: {where}", row.get(label_column), names) if label_column else None
            if value is None and not unlabelled:
                unlabelled = f"{file}: {where}: has no label"
            labels.append(value)
    if not texts:
        raise DataError(f"{name}: holds no example; give a file with at least one")
    present = tuple(value for value in labels if value is not None)
    if not present and not require_labels:
        return Examples(tuple(texts), None, name)
    if len(present) != len(texts):
        raise DataError(f"{unlabelled}; fill it in or remove the row")
    return Examples(tuple(texts), present, name)


def _column(
    file: str, columns: Sequence[str], asked: str | None, known: Sequence[str], role: str, *, required: bool
) -> str | None:
    if asked is not None:
        if asked in columns:
            return asked
        raise DataError(f"{file}: has no column {asked!r}; its columns are {list(columns)}: name one of them as {role}")
    found = next((column for column in known if column in columns), None)
    if found is None and required:
        remedy = f"name the column with {role}=..., and check that a csv or tsv begins with its header"
        if file.lower().endswith(".txt"):
            remedy = "a .txt file holds texts alone: give labels in a csv or jsonl file"
        looked = ", ".join(known)
        raise DataError(f"{file}: has no {role} column: looked for {looked}, found {list(columns)}; {remedy}")
    return found


def _text(where: str, row: Mapping[str, object], column: str) -> str:
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: the text in column {column!r} is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r} holds a {type(value).__name__}, not a text; name the text column")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{where}: the text holds half a surrogate pair, which no tokenizer can read; mend the escape")
    return value


def _label(where: str, value: object, names: Sequence[str] | None) -> str | None:
    """The label as a string; None for null, blank, NaN, and the -1 of Hugging Face's ClassLabel."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if names is not None and isinstance(value, int):
        if not -1 <= value < len(names):
            raise DataError(f"{where}: label {value}, but there are only {len(names)} class names; mend the label")
        return names[value] if value >= 0 else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value).strip() or None
    raise DataError(f"{where}: the label is a {type(value).__name__}; give one name or number a text")
