"""Parquet files and dataset folders as tables: those of `datasets.save_to_disk`, or one file a split.

pyarrow is imported only when a columnar file is really read: the runtime installs without it.
"""

import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from attar.runtime.data_formats import ENDINGS, Row, Table, read_table
from attar.runtime.errors import DataError, MissingExtraError

_SHARD = re.compile(r"(?P<split>.+?)(?:-(?P<index>\d{5})-of-(?P<count>\d{5}))?")
_NOT_DATA = {"dataset_info", "dataset_infos", "dataset_dict", "state", "readme", "license", "licence"}
# People and hubs call the same split by these names; either finds the other.
_ALIASES = {"validation": "dev", "valid": "dev", "val": "dev"}

Part = tuple[str, Table]
_T = TypeVar("_T")


def read_folder(path: Path, split: str | None, kind: str, *, labelled: bool) -> list[Part]:
    """The tables of one split of a dataset folder, shards in their order, each with its file's name.

    Without `split` the folder must have just one. Raises DataError that lists the splits otherwise. `kind` and
    `labelled` as for `read_table`.
    """
    if (path / "dataset_dict.json").is_file():
        names = _plain_names(path / "dataset_dict.json", _json(path / "dataset_dict.json").get("splits"))
        return _read_saved(path / _choose(path, {name: name for name in names}, split))
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        own = _json(path / "state.json").get("_split")
        if split is not None and _canonical(split) != _canonical(str(own)):
            raise DataError(f"{path}: is one saved dataset of split {own!r}, not {split!r}; leave split out")
        return _read_saved(path)
    found: dict[str, list[Path]] = {}
    for file in sorted([*path.iterdir(), *(path / "data").glob("*")]):
        match = _SHARD.fullmatch(file.stem)
        known = file.suffix.lower() in ENDINGS and not file.name.startswith(".")
        if match and known and file.is_file() and file.stem.lower() not in _NOT_DATA:
            found.setdefault(match["split"], []).append(file)
    if not found:
        raise DataError(
            f"{path}: holds no dataset; expected files such as train.jsonl or "
            "data/train-00000-of-00001.parquet, or a folder written by save_to_disk"
        )
    files = _choose(path, found, split)
    _check_shards(path, files)
    return [(str(file), read_table(file, kind, labelled=labelled)) for file in files]


def read_parquet(path: Path) -> Table:
    """One parquet file as a Table; rows are counted from 1. Raises DataError if it is not parquet."""
    parquet = pyarrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)  # finds text that is not UTF-8
    except pyarrow("pyarrow").ArrowException as error:
        raise unreadable(path, error) from error
    return _arrow_table(path, table, {})


def _read_saved(path: Path) -> list[Part]:
    """A saved dataset: state.json lists its arrow streams, dataset_info.json its class names."""
    state, info = _json(path / "state.json"), _json(path / "dataset_info.json")
    if state.get("_indices_data_files"):
        raise DataError(f"{path}: keeps its rows through an index file; call flatten_indices() and save it again")
    entries = state.get("_data_files")
    files = [entry.get("filename") for entry in entries if isinstance(entry, dict)] if entries else None
    class_names = _class_names(info.get("features"))
    names = _plain_names(path / "state.json", files)
    return [(str(path / name), _read_arrow(path / name, class_names)) for name in names]


def _plain_names(source: Path, names: object) -> list[str]:
    """The names that a metadata file lists. It is data from somewhere: none may lead out of its folder."""
    if not isinstance(names, list) or not names:
        raise DataError(f"{source}: lists no data; save the dataset again")
    for name in names:
        if not isinstance(name, str) or name in ("", "..") or re.search(r"[/\\:]", name):
            raise DataError(f"{source}: {name!r} is not a plain name; save the dataset again")
    return names


def _read_arrow(path: Path, class_names: Mapping[str, Sequence[str]]) -> Table:
    arrow, ipc = pyarrow("pyarrow"), pyarrow("pyarrow.ipc")
    try:
        with arrow.OSFile(str(path), "rb") as file:
            table = ipc.open_stream(file).read_all()
        table.validate(full=True)
    except arrow.ArrowException as error:
        raise DataError(f"{path}: is not a readable arrow stream ({_first_line(error)}); save it again") from error
    return _arrow_table(path, table, class_names)


def _arrow_table(path: Path, table: Any, class_names: Mapping[str, Sequence[str]]) -> Table:
    columns = column_names(path, table.schema)
    # The hub's parquet files carry their features in the schema.
    embedded = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(embedded).get("info", {}).get("features")
    except (ValueError, AttributeError):
        features = None
    return Table(columns, partial(_rows, table), class_names or _class_names(features))


def column_names(path: Path, schema: Any) -> tuple[str, ...]:
    """The columns' names. Raises DataError where one stands twice."""
    columns = tuple(str(name) for name in schema.names)
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column name stands twice in {list(columns)}; rename one of them")
    return columns


def _rows(table: Any, columns: Sequence[str]) -> Iterator[Row]:
    # Only what is asked for: turning images or vectors into Python objects would be slow.
    number = 0
    for batch in table.select(list(dict.fromkeys(columns))).to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _class_names(features: object) -> dict[str, Sequence[str]]:
    """The class names of each ClassLabel, and of each list of them, in a Hugging Face features object."""
    found: dict[str, Sequence[str]] = {}
    for name, feature in features.items() if isinstance(features, dict) else ():
        # A list of labels is written as [feature], or as {"feature": feature, "_type": "Sequence" or "List"}.
        inner = feature[0] if isinstance(feature, list) and len(feature) == 1 else feature
        inner = inner.get("feature", inner) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and isinstance(inner.get("names"), list):
            found[name] = [str(each) for each in inner["names"]]
    return found


def _choose(path: Path, found: Mapping[str, _T], split: str | None) -> _T:
    """The entry of the wanted split, by its name, else an alias; with no split wanted, the only one."""
    if split is None:
        if len(found) == 1:
            return next(iter(found.values()))
        raise DataError(f"{path}: has the splits {sorted(found)}; name one with split=...")
    aliases = [name for name in found if _canonical(name) == _canonical(split)]
    name = split if split in found else aliases[0] if len(aliases) == 1 else None
    if name is None:
        raise DataError(f"{path}: has no split {split!r}; name one of {sorted(found)}")
    return found[name]


def _canonical(split: str) -> str:
    return _ALIASES.get(split, split)


def _check_shards(path: Path, files: list[Path]) -> None:
    """Refuse two files for one split (train.csv beside train.jsonl) and an incomplete set of shards."""
    matches = [match for file in files if (match := _SHARD.fullmatch(file.stem))]
    counts = {match["count"] for match in matches}
    names = [file.name for file in files]
    if len(files) > 1 and (len(counts) > 1 or None in counts or len({m["index"] for m in matches}) < len(files)):
        raise DataError(f"{path}: {names} all claim to be the same split; keep one, or give its path instead")
    expected = next(iter(counts))
    if expected is not None and int(expected) != len(files):
        raise DataError(f"{path}: found {len(files)} of {int(expected)} shards: {names}; fetch the missing ones")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); save the dataset again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold one JSON object; save the dataset again")
    return value


def pyarrow(module: str) -> Any:
    """A module of pyarrow, imported now; MissingExtraError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error


def unreadable(path: Path, error: BaseException) -> DataError:
    """What to say of a file that pyarrow does not take for Parquet."""
    return DataError(f"{path}: is not a readable parquet file ({_first_line(error)}); write it again")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
