"""Rows into answers: which columns are read, what a bad row is, and how many texts are in work at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attar.runtime.data_formats import Table
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.jobs.columns import Layout, layout
from attar.runtime.jobs.reading import Row
from attar.runtime.model import Model
from attar.runtime.records import Record, Wanted
from attar.runtime.tokenizer import Text

OnError = Literal["stop", "skip", "null"]
ON_ERROR = ("stop", "skip", "null")
"""What to do about a row without a usable text: stop, leave it out, or leave its answer's columns null."""
CHARACTERS = 1 << 21
"""In one call of the model: a bound on the memory that long texts take, whose outputs are kept for each token."""


@dataclass(frozen=True)
class Answered:
    """Which rows are kept, the values of the answer's columns for each of these, and what was wrong with bad ones."""

    kept: list[int]
    values: list[tuple[Any, ...]]
    bad: list[DataError]


@dataclass(frozen=True)
class Answerer:
    """A model, the columns that it reads and those that it adds."""

    model: Model
    record: Record
    made: Layout
    on_error: OnError

    def __call__(self, rows: Sequence[Row]) -> Answered:
        """Raises DataError for the first bad row, with `stop`."""
        found = answer_rows(self.model, self.record, rows)
        bad = [each for each in found if isinstance(each, DataError)]
        if bad and self.on_error == "stop":
            raise DataError(
                f"{bad[0]}. Or go on with --on-error skip, which leaves such rows out, or null, which leaves their "
                "answers empty"
            )
        out = self.on_error == "skip"
        kept = [place for place, each in enumerate(found) if not (out and isinstance(each, DataError))]
        return Answered(kept, self.made.rows(found[i] for i in kept), bad)


def check_on_error(given: str) -> None:
    """Raises SettingsError for an unknown choice."""
    if given not in ON_ERROR:
        raise SettingsError(f"on_error must be one of {', '.join(ON_ERROR)}, not {given!r}")


def answerer(
    model: Model, source: str, names: Sequence[str], column: str | None, prefix: str, on_error: OnError
) -> Answerer:
    """The model for rows with these columns. `column`: that of the texts, or two with a comma between them.

    Raises DataError for a missing column, and for pairs where the model reads single texts, or the reverse;
    SettingsError where an answer's column, named with the prefix, is there already.
    """
    made = layout(model.task, prefix)
    for added in made.columns:
        if added.name in names:
            raise SettingsError(
                f"{source}: has a column {added.name!r} already, as the answers have; give theirs a prefix, such as "
                "--prefix predicted_"
            )
    return Answerer(model, _record(model, source, names, column), made, on_error)


def _record(model: Model, source: str, names: Sequence[str], column: str | None) -> Record:
    # A model of several tasks may tag tokens, and its columns of labels are of no interest here.
    kind = "token-classification" if model.task.kind == "multi-task" else model.task.kind
    record = Wanted(kind, column, labelled=False).record(source, Table(tuple(names), lambda _: ()))
    read = record.columns if record.label is None else record.columns[:-1]
    if (len(read) == 2) != model.task.pairs:
        form, wanted = ("pairs of", "two columns, FIRST,SECOND") if model.task.pairs else ("single", "one column")
        raise DataError(
            f"{source}: the model reads {form} texts, and they were looked for in {' and '.join(read)}; "
            f"choose {wanted} of {list(names)}"
        )
    return Record(read, record.text, None)


def answer_rows(model: Model, record: Record, rows: Sequence[Row]) -> list[Any]:
    """A typed answer a row, or the DataError that says why there is none."""
    found: list[Any] = [None] * len(rows)
    texts: list[Text] = []
    places: list[int] = []
    for place, (where, values) in enumerate(rows):
        try:
            texts.append(_text(model, record, where, values))
            places.append(place)
        except DataError as error:
            found[place] = error
    answers = (answer for part in _parts(texts) for answer in model.answer(part))
    for place, answer in zip(places, answers, strict=True):
        found[place] = answer
    return found


def _text(model: Model, record: Record, where: str, values: Any) -> Text:
    if isinstance(values, DataError):
        raise values
    text = record.text(where, values)
    try:
        return model.task.parse(text)
    except DataError as error:
        raise DataError(f"{where}: the text {error}; mend the row") from error


def _parts(texts: Sequence[Text]) -> Iterator[list[Text]]:
    """The texts in their order, in parts of at most `CHARACTERS`, or of one text."""
    part: list[Text] = []
    room = CHARACTERS
    for text in texts:
        size = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
        if part and size > room:
            yield part
            part, room = [], CHARACTERS
        part.append(text)
        room -= size
    if part:
        yield part
