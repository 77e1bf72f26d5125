"""Labelled and unlabelled texts, read from the files and folders that people have. Knows no torch.

Every reader turns its file into a `Table`: the columns found, and rows that say where they came from ("line
7"). `records.py` then picks the columns and checks every row, so all formats make the same promises and fail
with the same words. The readers of files are in `data_formats.py`; folders and the columnar formats (parquet,
Hugging Face datasets) are in `data_folders.py`.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.runtime.data_folders import read_folder
from attar.runtime.data_formats import Table, read_table
from attar.runtime.errors import DataError
from attar.runtime.records import Wanted
from attar.runtime.tokenizer import Text


@dataclass(frozen=True)
class Examples:
    """Texts and, unless unlabelled, one label each. Raises DataError if their numbers differ.

    A label is what `read_examples` says for the kind of task: a string, a number, or tuples of them.
    """

    texts: tuple[Text, ...]
    labels: tuple[Any, ...] | None
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


def read_examples(
    path: Path | str,
    *,
    kind: str = "text-classification",
    text: str | None = None,
    label: str | None = None,
    split: str | None = None,
    require_labels: bool = True,
    heads: Sequence[tuple[str, str, str]] = (),
) -> Examples:
    """Read .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .txt (a text a line), or a `split` of a folder.

    A folder is one written by `datasets.save_to_disk`, or holds a file or parquet shards a split
    (train.jsonl, data/test-00000-of-00001.parquet). `text` and `label` name the columns, `text="a,b"` the two of
    a pair; without them the first of the usual names that is there. By the task's `kind`, a row is
    - text-classification: a text or a pair, and a label: a trimmed string (1 and 1.0 are '1'), or a list of them;
    - regression: a text or a pair, and a finite number;
    - token-classification: tokens and tags (also from .conll, .iob, .bio and labelled .txt files), or a text and
      entities; the text is the tokens joined by spaces, the label its ((start, end, type), ...) in characters;
    - question-answering: question, context and answers (also SQuAD's nested .json); the text is the pair
      (question, context), the label ((answer, start), ...), empty where there is no answer;
    - embeddings: a text and perhaps a class, or a pair and perhaps a number;
    - multi-task: what `heads`, each (name, kind, column), say; the label is a tuple of theirs.
    With `require_labels=False`, and for embeddings, a missing label column, or one without any value, gives
    `labels=None`. Raises DataError, naming file, row and remedy, SettingsError for an unknown kind or impossible
    heads, and MissingExtraError where pyarrow is needed and absent.
    """
    wanted = Wanted(kind, text, label, require_labels and kind != "embeddings", tuple(heads))
    return _read(Path(path), split, wanted, labelled=require_labels)


def read_texts(path: Path | str, *, kind: str, text: str | None = None) -> Examples:
    """The texts that `read_examples` reads, without labels: whatever a row has in their place is not looked at."""
    return _read(Path(path), None, Wanted(kind, text, labelled=False), labelled=False, texts_alone=True)


def _read(path: Path, split: str | None, wanted: Wanted, *, labelled: bool, texts_alone: bool = False) -> Examples:
    name = str(path)
    try:
        if path.is_dir():
            name = f"{path} [{split}]" if split else name
            parts = read_folder(path, split, wanted.kind, labelled=labelled)
        elif not path.exists():
            raise DataError(f"{path}: there is no such file or folder; check the path (seen from {Path.cwd()})")
        elif split is not None:
            raise DataError(
                f"{path}: is one file, so split={split!r} selects nothing; leave split out, or name a folder"
            )
        else:
            parts = [(str(path), read_table(path, wanted.kind, labelled=labelled))]
        return _collect(name, parts, wanted, texts_alone)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); check the file and its permissions") from error


def _collect(name: str, parts: Iterable[tuple[str, Table]], wanted: Wanted, texts_alone: bool) -> Examples:
    texts: list[Text] = []
    labels: list[Any] = []
    unlabelled = ""  # where the first row without a label is
    for file, table in parts:
        if not table.columns:
            continue
        record = wanted.record(file, table)
        for place, row in table.rows(record.columns):
            where = f"{file}: {place}"
            texts.append(record.text(where, row))
            value = record.label(where, row, texts[-1]) if record.label and not texts_alone else None
            if value is None and not unlabelled:
                unlabelled = f"{where}: has no label"
            labels.append(value)
    if not texts:
        raise DataError(f"{name}: holds no example; give a file with at least one")
    present = sum(value is not None for value in labels)
    if not present and not wanted.labelled:
        return Examples(tuple(texts), None, name)
    if present and wanted.kind == "question-answering":  # a question without answers has none in its context
        labels = [() if value is None else value for value in labels]
    elif present != len(texts):
        raise DataError(f"{unlabelled}; fill it in or remove the row")
    return Examples(tuple(texts), tuple(labels), name)
