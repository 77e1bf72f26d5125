"""A job: the answers of a model to all rows of a file, in a new file; a killed one goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.jobs.answering import Answerer, OnError, answerer, check_on_error
from attar.runtime.jobs.reading import Source, open_source
from attar.runtime.jobs.work import MADE, ROWS, SUFFIX, State, Work, exists
from attar.runtime.jobs.writing import Sink, check_ending, sink
from attar.runtime.model import Model
from attar.runtime.version import __version__

CHUNK = 4096


@dataclass(frozen=True)
class Settings:
    """How a job reads and writes. Raises SettingsError for an impossible value.

    Attributes:
        column: of the texts, or two with a comma between them; by default the first of the usual names.
        prefix: in front of the names of the answer's columns.
        on_error: what is done about a row whose text is null, blank or unreadable: `stop`, `skip` the row, or leave
            its answer `null`.
        chunk: rows that are held and answered at a time; the output does not depend on it.
        overwrite: replace an output that exists, and a job for it that is another.
    """

    column: str | None = None
    prefix: str = ""
    on_error: OnError = "stop"
    chunk: int = CHUNK
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_on_error(self.on_error)
        if type(self.chunk) is not int or self.chunk < 1:
            raise SettingsError(f"chunk must be a number of rows of at least 1, not {self.chunk!r}")


@dataclass(frozen=True)
class Progress:
    """How far a job is, in rows of the input, `before` of which were done when this process began.

    `seconds`: since then. `bad`: rows without a usable text, `first_bad` what was wrong with the first of them.
    """

    total: int
    read: int
    before: int
    written: int
    seconds: float
    bad: int
    first_bad: str

    @property
    def rate(self) -> float:
        """Rows a second of this process."""
        return (self.read - self.before) / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float:
        """Seconds that the rest will take at this rate."""
        return (self.total - self.read) / self.rate if self.read > self.before else float("inf")


def answer_file(
    model: Model,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: Settings | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Answers the rows of `source` (.parquet, .jsonl, .ndjson, .csv, .tsv, .txt) into `target` (all but .txt).

    The columns are kept and those of the answers added (see `columns.layout`). Memory does not grow with the file.
    The target appears when it is whole; until then a folder beside it, `<target>.job`, holds what is done, and the
    same call goes on from there. Bytes are the same whether it was interrupted or not, and whatever the chunk.

    Raises:
        DataError: the file cannot be read or lacks the column; a bad row, with `stop`.
        SettingsError: an unknown ending; an output that exists; an input, a bundle or settings that changed since the
            job began.
        MissingExtraError: Parquet without pyarrow.
    """
    settings, source, target = settings or Settings(), Path(source), Path(target)
    _check_paths(source, target, settings.overwrite)
    stamp = _stamp(source)
    opened = open_source(source)
    answer = answerer(model, str(source), opened.names, settings.column, settings.prefix, settings.on_error)
    form = sink(target, opened, answer.made)
    identity = _identity(answer, source, settings.prefix)
    with Work(target, State(identity, settings.on_error, settings.overwrite)) as work:
        meter = _Meter(opened.total, work.state.read, time.monotonic())
        if not work.state.finished:
            for state in _answer(answer, opened, form, settings.chunk, work):
                if progress is not None:
                    progress(meter(state))
            made = form.finish(work.folder / ROWS, work.folder / MADE)
            if _stamp(source) != stamp:
                raise DataError(f"{source}: was changed while it was read; run the job again with --overwrite")
            work.finished(made)
        work.deliver()
        return meter(work.state)


def _answer(answer: Answerer, source: Source, form: Sink, size: int, work: Work) -> Iterator[State]:
    """Answers what is left, a chunk at a time; each is safe when its state is given."""
    if not work.state.size:
        work.commit(form.head(), work.state)
    columns = source.names if form.whole else answer.record.columns
    for chunk in source.chunks(work.state.read, size, columns):
        found = answer(chunk.rows)
        before = work.state
        state = replace(
            before,
            read=before.read + len(chunk.rows),
            written=before.written + len(found.kept),
            bad=before.bad + len(found.bad),
            first_bad=before.first_bad or (str(found.bad[0]) if found.bad else ""),
        )
        work.commit(form.encode(chunk, found.kept, found.values), state)
        yield work.state


@dataclass(frozen=True)
class _Meter:
    total: int
    before: int
    began: float

    def __call__(self, state: State) -> Progress:
        seconds = time.monotonic() - self.began
        return Progress(self.total, state.read, self.before, state.written, seconds, state.bad, state.first_bad)


def _check_paths(source: Path, target: Path, overwrite: bool) -> None:
    """What can be refused before anything is read."""
    check_ending(target)
    if not target.parent.is_dir():
        raise SettingsError(f"{target}: there is no folder {target.parent}; make it first")
    if target.is_dir():
        raise SettingsError(f"{target}: is a folder; name a file in it")
    if target.exists() and source.exists() and target.samefile(source):
        raise SettingsError(f"{target}: is the input itself; give the output another name")
    if target.exists() and not overwrite and not target.with_name(target.name + SUFFIX).exists():
        raise exists(target)


def _stamp(source: Path) -> tuple[int, int] | None:
    try:
        found = source.stat()
    except OSError:  # `open_source` says what is wrong
        return None
    return found.st_size, found.st_mtime_ns


def _identity(answer: Answerer, source: Path, prefix: str) -> Any:
    """What the output depends on, as JSON has it."""
    model = answer.model
    with source.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = json.dumps(model.manifest.to_json(), sort_keys=True)
    found = {
        "input": {"size": source.stat().st_size, "sha256": content},
        "bundle": hashlib.sha256(manifest.encode()).hexdigest(),
        "settings": {
            "columns": answer.record.columns,
            "prefix": prefix,
            "task": model.task.to_json(),
            "engine": model.engine.name,
            "attar": __version__,
        },
    }
    return json.loads(json.dumps(found))
