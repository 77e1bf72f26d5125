"""The folder of a job that is not finished: the rows so far and how far they go, so that a killed one can go on.

x.parquet.job/state.json    what the job is of, and how many rows and bytes are safe; replaced as a whole
x.parquet.job/rows          what is behind those bytes is of a chunk that was never finished, and is cut off
x.parquet.job/made          the finished file, until it is renamed into its place
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from attar.runtime.errors import SettingsError

if sys.platform != "win32":
    import fcntl

STATE, ROWS, MADE, LOCK = "state.json", "rows", "made", "lock"
TEMPORARY = "state.json.new"
SUFFIX = ".job"
WHAT = {
    "input": "the input file has changed since the job began",
    "bundle": "the job began with another bundle",
    "settings": "the job began with other settings, engine or version of attar",
}


@dataclass(frozen=True)
class State:
    """How far a job has come.

    Attributes:
        identity: what it is of, by the keys of `WHAT`.
        on_error: what is done about bad rows; it may change until there is one.
        overwrite: the output may be replaced.
        read: rows of the input that are done with.
        written: rows of the output.
        size: bytes that they take.
        bad: rows without a usable text.
        first_bad: what was wrong with the first of them.
        finished: the file of this name in the folder only has to be renamed; empty before.
    """

    identity: Mapping[str, Any]
    on_error: str = "stop"
    overwrite: bool = False
    read: int = 0
    written: int = 0
    size: int = 0
    bad: int = 0
    first_bad: str = ""
    finished: str = ""


def append(file: BinaryIO, data: bytes) -> None:
    """Writes behind what is there; the bytes are on the disk when it returns."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


class Work:
    """The folder of one job, held by one process at a time. A context manager."""

    def __init__(self, target: Path, wanted: State) -> None:
        """Goes on with the job of `wanted`, or begins it.

        Raises SettingsError if another job is there, which `wanted.overwrite` throws away instead, or if the folder
        cannot be written.
        """
        self.target, self.folder = target, target.with_name(target.name + SUFFIX)
        self._files = contextlib.ExitStack()
        try:
            self._take()
            self._resume(wanted)
        except BaseException as error:
            self._files.close()
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise

    def _unwritable(self, error: OSError) -> SettingsError:
        return SettingsError(
            f"{self.target}: cannot be written ({error}); mend that and run the same command again, which goes on "
            "from where it was"
        )

    def _take(self) -> None:
        self.folder.mkdir(exist_ok=True)
        strange = sorted({each.name for each in self.folder.iterdir()} - {STATE, ROWS, MADE, LOCK, TEMPORARY})
        if strange:
            raise SettingsError(f"{self.folder}: holds {strange[0]!r}, so it is no job of attar; move it away")
        lock = self._files.enter_context((self.folder / LOCK).open("wb"))
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SettingsError(f"{self.target}: another process is at this job; let it finish") from error

    def _resume(self, wanted: State) -> None:
        before = self._saved()
        reason = "" if before is None else self._mismatch(before, wanted)
        if reason and not wanted.overwrite:
            raise SettingsError(
                f"{self.target}: {reason}, and {self.folder} holds its first part; put things back to go on with it, "
                "or --overwrite begins anew"
            )
        if before is None or reason or self._is_over(before):
            for name in (STATE, ROWS, MADE):
                (self.folder / name).unlink(missing_ok=True)
            self.state = wanted
        else:
            self.state = replace(before, on_error=wanted.on_error, overwrite=before.overwrite or wanted.overwrite)
        if self.target.exists() and not self.state.overwrite and not self.state.finished:
            if self.state.read == 0:
                self._remove()
            raise exists(self.target)
        if not self.state.finished:
            self._rows: BinaryIO = self._files.enter_context((self.folder / ROWS).open("ab"))
            self._rows.truncate(self.state.size)

    def _saved(self) -> State | None:
        try:
            record = json.loads((self.folder / STATE).read_bytes())
            return State(**record)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{self.folder / STATE}: cannot be read ({error}); remove {self.folder}") from error

    def _mismatch(self, before: State, wanted: State) -> str:
        for key, words in WHAT.items():
            if before.identity.get(key) != wanted.identity[key]:
                return words
        if before.bad and before.on_error != wanted.on_error:
            return f"the job has met bad rows, and began with --on-error {before.on_error}"
        rows = self.folder / ROWS
        if not before.finished and (not rows.is_file() or rows.stat().st_size < before.size):
            return "the rows of the job are damaged"
        return ""

    def _is_over(self, before: State) -> bool:
        """Whether the job was finished and its output has gone since."""
        return bool(before.finished) and not (self.folder / before.finished).exists() and not self.target.exists()

    def _remove(self) -> None:
        """The state last: while it is there, a finished job is known for one."""
        for name in (ROWS, MADE, TEMPORARY, LOCK, STATE):
            (self.folder / name).unlink(missing_ok=True)
        self.folder.rmdir()

    def commit(self, data: bytes, state: State) -> None:
        """Adds the bytes to the rows; then `state`, but for its size, is what a new start goes on from."""
        try:
            append(self._rows, data)
            self._save(replace(state, size=self.state.size + len(data)))
        except OSError as error:
            raise self._unwritable(error) from error

    def _save(self, state: State) -> None:
        with (self.folder / TEMPORARY).open("wb") as file:
            append(file, json.dumps(asdict(state)).encode())
        os.replace(self.folder / TEMPORARY, self.folder / STATE)
        self.state = state

    def finished(self, made: Path) -> None:
        """`made`, a file of the folder, is whole."""
        try:
            with made.open("rb") as file:
                os.fsync(file.fileno())
            self._save(replace(self.state, finished=made.name))
        except OSError as error:
            raise self._unwritable(error) from error

    def deliver(self) -> None:
        """Renames the finished file into its place, unless it is there, and removes the folder."""
        made = self.folder / self.state.finished
        try:
            if made.exists():
                os.replace(made, self.target)
            self._remove()
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def exists(target: Path) -> SettingsError:
    """What to say of an output that is there already."""
    return SettingsError(f"{target}: exists already; --overwrite replaces it, or choose another name")
