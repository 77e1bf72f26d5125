"""Rows of a table as (text, label), for every kind of task: which columns are meant, and which values are refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from attar.runtime.data_formats import Table
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.record_values import answers, class_name, number, plain_text, spans, token_text
from attar.runtime.tasks.multi import PARTS
from attar.runtime.tasks.spans import Span
from attar.runtime.tokenizer import Text

TEXT_COLUMNS = ("text", "sentence", "content", "review")
LABEL_COLUMNS = ("label", "labels", "class", "sentiment")
SCORE_COLUMNS = (*LABEL_COLUMNS, "score", "rating", "target")
TAG_COLUMNS = ("tags", "ner_tags", "labels")
ENTITY_COLUMNS = ("entities", "spans")
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
)
SEARCH_PAIRS = (("query", "passage"), ("anchor", "positive"))

Values = Mapping[str, object]
"""A row: its values by column."""
TextOf = Callable[[str, Values], Text]
LabelOf = Callable[[str, Values, Text], Any]
Head = tuple[str, str, str]
"""Name, kind and column of a head of a multi-task network."""


@dataclass(frozen=True)
class Record:
    """How a row of one table becomes a text and a label. Both take where the row is, for the words of a DataError.

    `columns`: those it reads. `label`: None where the table has none, and gives None where the row has none.
    """

    columns: tuple[str, ...]
    text: TextOf
    label: LabelOf | None


@dataclass(frozen=True)
class Wanted:
    """What a caller asks of the tables of one data set. Raises SettingsError for a kind or heads unknown to it.

    `text`, `label`: the columns' names where given; `labelled`: whether a table must have labels.
    """

    kind: str
    text: str | None = None
    label: str | None = None
    labelled: bool = True
    heads: tuple[Head, ...] = ()
    # By column, the form of the first value, the value and where it is: one data set is written in one way.
    _forms: dict[str, tuple[str, object, str]] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if bool(self.heads) != (self.kind == "multi-task"):
            raise SettingsError(f"{self.kind}: has {len(self.heads)} heads; multi-task needs some, other tasks none")
        for name, kind, _ in self.heads:
            if kind not in PARTS:
                raise SettingsError(f"head {name!r}: is of kind {kind!r}; a head is one of {', '.join(PARTS)}")
        if self.heads and self.label is not None:
            raise SettingsError(f"label={self.label!r} means nothing to multi-task: each head names its own column")

    def record(self, file: str, table: Table) -> Record:
        """How the rows of a table are to be read. Raises DataError for a missing column."""
        return KINDS[self.kind](self, file, table)

    def one_form(self, column: str, where: str, value: object, form: str) -> None:
        """Raise DataError if an earlier value of this column had another form."""
        first, other, place = self._forms.setdefault(column, (form, value, where))
        if first != form:
            raise DataError(f"{where}: {value!r} is {form}, but {other!r} ({place}) is {first}; write all in one way")


def _classification(wanted: Wanted, file: str, table: Table) -> Record:
    texts = _text_columns(wanted, file, table.columns, PAIRS)
    label = _column(wanted, file, table.columns, LABEL_COLUMNS, texts)
    return _record(texts, _texts(texts), table, label, partial(_classes, wanted))


def _regression(wanted: Wanted, file: str, table: Table) -> Record:
    texts = _text_columns(wanted, file, table.columns, PAIRS)
    return _record(texts, _texts(texts), table, _column(wanted, file, table.columns, SCORE_COLUMNS, texts), _number)


def _embeddings(wanted: Wanted, file: str, table: Table) -> Record:
    texts = _text_columns(wanted, file, table.columns, (*PAIRS, *SEARCH_PAIRS))
    known, made = (SCORE_COLUMNS, _number) if len(texts) == 2 else (LABEL_COLUMNS, _class)
    return _record(texts, _texts(texts), table, _column(wanted, file, table.columns, known, texts), made)


def _tokens(wanted: Wanted, file: str, table: Table) -> Record:
    text, label = _token_columns(wanted, file, table.columns)
    return _record((text,), _token_texts(text), table, label, partial(_spans, wanted, text))


def _token_columns(wanted: Wanted, file: str, columns: Sequence[str]) -> tuple[str, str | None]:
    if wanted.text is None and wanted.label is None:
        for texts, labels in ((("tokens",), TAG_COLUMNS), (TEXT_COLUMNS, ENTITY_COLUMNS)):
            text, label = _first(columns, texts), _first(columns, labels)
            if text and label:
                return text, label
    text = _required(file, columns, wanted.text, ("tokens", *TEXT_COLUMNS), "text")
    tags, entities = text not in TEXT_COLUMNS, text != "tokens"  # a column of another name may be of either kind
    known = (TAG_COLUMNS if tags else ()) + (ENTITY_COLUMNS if entities else ())
    return text, _column(wanted, file, columns, known, (text,))


def _questions(wanted: Wanted, file: str, table: Table) -> Record:
    texts: tuple[str, ...] = ("question", "context")
    if wanted.text is not None:
        texts = _text_columns(wanted, file, table.columns, ())
    if len(texts) != 2 or not set(texts) <= set(table.columns):
        raise DataError(
            f"{file}: needs the columns question and context, found {list(table.columns)}; "
            'name the two with text="a,b", the question first'
        )
    return _record(texts, _texts(texts), table, _column(wanted, file, table.columns, ("answers",), texts), _answers)


def _multi_task(wanted: Wanted, file: str, table: Table) -> Record:
    tokens = any(kind == "token-classification" for _, kind, _ in wanted.heads)
    known = ("tokens",) if tokens and wanted.labelled else ("tokens", *TEXT_COLUMNS) if tokens else TEXT_COLUMNS
    text = _required(file, table.columns, wanted.text, known, "text")
    read = _token_texts(text) if tokens else _texts((text,))
    absent = [(name, column) for name, _, column in wanted.heads if column not in table.columns]
    if absent and not wanted.labelled:
        return Record((text,), read, None)
    if absent:
        name, column = absent[0]
        raise DataError(
            f"{file}: has no column {column!r} for the head {name!r}; its columns are {list(table.columns)}"
        )
    labels: list[LabelOf] = []
    makers = {"text-classification": partial(_classes, wanted), "token-classification": partial(_spans, wanted, text)}
    for _, kind, column in wanted.heads:
        labels.append(makers.get(kind, _number)(column, table.class_names.get(column)))

    def label(where: str, row: Values, text: Text) -> tuple[Any, ...] | None:
        found = tuple(each(where, row, text) for each in labels)
        if all(value is None for value in found):
            return None
        for (name, _, column), value in zip(wanted.heads, found, strict=True):
            if value is None:
                raise DataError(f"{where}: has no label for the head {name!r} in column {column!r}; fill it in")
        return found

    return Record((text, *(column for _, _, column in wanted.heads)), read, label)


KINDS: dict[str, Callable[[Wanted, str, Table], Record]] = {
    "text-classification": _classification,
    "regression": _regression,
    "token-classification": _tokens,
    "question-answering": _questions,
    "embeddings": _embeddings,
    "multi-task": _multi_task,
}


def _record(
    texts: tuple[str, ...],
    read: TextOf,
    table: Table,
    label: str | None,
    made: Callable[[str, Sequence[str] | None], LabelOf],
) -> Record:
    """`made` gives the reader of a label column from its name and class names."""
    if label is None:
        return Record(texts, read, None)
    return Record((*texts, label), read, made(label, table.class_names.get(label)))


def check_kind(kind: str) -> None:
    """Raise SettingsError, with the known kinds, for an unknown one."""
    if kind not in KINDS:
        raise SettingsError(f"there is no task {kind!r}; the known ones are {', '.join(KINDS)}")


def _text_columns(
    wanted: Wanted, file: str, columns: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """The column of a single text, or the two of a pair."""
    asked = wanted.text
    if asked is not None and asked not in columns and asked.count(",") == 1:
        return tuple(_required(file, columns, part.strip(), (), "text") for part in asked.split(","))
    for pair in pairs if asked is None else ():
        others = [column for column in TEXT_COLUMNS if column in columns and column not in pair]
        if set(pair) <= set(columns) and (not others or pair[0] == "text"):
            return pair
    return (_required(file, columns, asked, TEXT_COLUMNS, "text"),)


def _column(
    wanted: Wanted, file: str, columns: Sequence[str], known: Sequence[str], texts: Sequence[str]
) -> str | None:
    """The label column, which is none of the texts; None where there is none and none is needed."""
    known = [column for column in known if column not in texts]
    if wanted.labelled or wanted.label is not None:
        return _required(file, columns, wanted.label, known, "label")
    return _first(columns, known)


def _required(file: str, columns: Sequence[str], asked: str | None, known: Sequence[str], role: str) -> str:
    if asked is not None:
        if asked in columns:
            return asked
        raise DataError(f"{file}: has no column {asked!r}; its columns are {list(columns)}: name one of them as {role}")
    found = _first(columns, known)
    if found is None:
        remedy = f"name the column with {role}=..., and check that a csv or tsv begins with its header"
        if file.lower().endswith(".txt"):
            remedy = "a .txt file holds texts alone: give labels in a csv or jsonl file"
        looked = ", ".join(known)
        raise DataError(f"{file}: has no {role} column: looked for {looked}, found {list(columns)}; {remedy}")
    return found


def _first(columns: Sequence[str], known: Sequence[str]) -> str | None:
    return next((column for column in known if column in columns), None)


def _texts(columns: tuple[str, ...]) -> TextOf:
    if len(columns) == 2:
        first, second = columns
        return lambda where, row: (plain_text(where, first, row.get(first)), plain_text(where, second, row.get(second)))
    only = columns[0]
    return lambda where, row: plain_text(where, only, row.get(only))


def _token_texts(column: str) -> TextOf:
    def text(where: str, row: Values) -> str:
        value = row.get(column)
        listed = column == "tokens" or not isinstance(value, str)
        return plain_text(where, column, token_text(where, column, value) if listed else value)

    return text


def _spans(wanted: Wanted, text_column: str, column: str, names: Sequence[str] | None) -> LabelOf:
    def label(where: str, row: Values, _: Text) -> tuple[Span, ...] | None:
        one_form = partial(wanted.one_form, column, where)
        return spans(where, row.get(text_column), row.get(column), column, names, one_form)

    return label


def _classes(wanted: Wanted, column: str, names: Sequence[str] | None) -> LabelOf:
    """A label, or the sorted labels of a text that may have several."""

    def label(where: str, row: Values, _: Text) -> str | tuple[str, ...] | None:
        value = row.get(column)
        if not isinstance(value, list):
            found = class_name(where, value, names)
            if found is not None:
                wanted.one_form(column, where, value, "a single label")
            return found
        wanted.one_form(column, where, value, "a list of labels")
        several = [class_name(where, each, names) for each in value]
        if None in several:
            raise DataError(f"{where}: the list of labels {value!r} holds an empty one; fill it in or remove it")
        return tuple(sorted({each for each in several if each is not None}))

    return label


def _class(column: str, names: Sequence[str] | None) -> LabelOf:
    return lambda where, row, _: class_name(where, row.get(column), names)


def _number(column: str, _: Sequence[str] | None) -> LabelOf:
    return lambda where, row, _: number(where, row.get(column))


def _answers(column: str, _: Sequence[str] | None) -> LabelOf:
    return lambda where, row, text: answers(where, row.get(column), text[1])
