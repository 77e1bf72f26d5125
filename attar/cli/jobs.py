"""The part of `attar predict` that answers files into files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from attar.runtime.jobs import Progress
    from attar.runtime.model import Model

EVERY = 30.0
"""Seconds between two lines of progress where no terminal shows them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of jobs."""
    job = parser.add_argument_group(
        "files into files", "a job that was killed goes on where it was by the same command"
    )
    job.add_argument(
        "--input", type=Path, metavar="FILE", help="a .parquet, .jsonl, .csv, .tsv or .txt file of any size"
    )
    job.add_argument(
        "--output", type=Path, metavar="FILE", help="its rows with their answers, as .parquet, .jsonl, .csv or .tsv"
    )
    job.add_argument("--prefix", metavar="NAME", help="put in front of the names of the answer's columns")
    job.add_argument(
        "--on-error",
        choices=("stop", "skip", "null"),
        help="a row whose text is null, blank or unreadable: stop (default), skip the row, or leave its answer null",
    )
    job.add_argument("--chunk", type=int, metavar="N", help="rows held in memory at a time (default: 4096)")
    job.add_argument(
        "--overwrite", action="store_true", help="replace the output if it exists, or a job for it that is another"
    )


def asked(args: argparse.Namespace) -> bool:
    """Whether a job is asked for; SettingsError for arguments that do not go together."""
    from attar.runtime.errors import SettingsError

    if args.input is None and args.output is None:
        given = [name for name in ("prefix", "on_error", "chunk") if getattr(args, name) is not None]
        given += ["overwrite"] if args.overwrite else []
        if given:
            raise SettingsError(f"--{given[0].replace('_', '-')} is for --input and --output, which are missing")
        return False
    if args.input is None or args.output is None:
        raise SettingsError("--input FILE and --output FILE go together")
    if args.texts or args.data is not None:
        raise SettingsError("give either --input, or texts or --data")
    return True


def run(model: Model, args: argparse.Namespace) -> int:
    """Answer --input into --output, with progress and a last line on stderr."""
    from attar.runtime.jobs import Settings, answer_file

    given = {"prefix": args.prefix, "on_error": args.on_error, "chunk": args.chunk, "column": args.text_column}
    settings = Settings(overwrite=args.overwrite, **{k: v for k, v in given.items() if v is not None})
    meter = Meter(sys.stderr)
    found = answer_file(model, args.input, args.output, settings, meter)
    meter.end()
    print(f"{args.output}: {found.written} rows{_resumed(found)}{_bad(found)}", file=sys.stderr)
    return 0


def _resumed(found: Progress) -> str:
    return f", {found.before} of the input's were done before" if found.before else ""


def _bad(found: Progress) -> str:
    return f"; {found.bad} bad, first {found.first_bad}" if found.bad else ""


class Meter:
    """Shows progress: over and over in one line of a terminal, in lines of their own elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._next = time.monotonic() + EVERY

    def __call__(self, now: Progress) -> None:
        text = f"{now.read} of {now.total} rows, {now.rate:.0f} rows/s, {clock(now.remaining)} left"
        text += f", {now.bad} bad" if now.bad else ""
        if self._terminal:
            self._stream.write(f"\r\x1b[K{text}")
        elif time.monotonic() >= self._next:
            self._stream.write(f"{text}\n")
            self._next = time.monotonic() + EVERY
        self._stream.flush()

    def end(self) -> None:
        """Clears the terminal's line."""
        if self._terminal:
            self._stream.write("\r\x1b[K")


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
