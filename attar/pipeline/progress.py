"""Progress: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from typing import TextIO

MARKS = ("note: ", "warning: ")
"""Progress that holds one of these is left to be read when it is first told; a bar would wipe it out."""


class Console:
    """Prints what a run is doing. `quiet` prints nothing."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bar = False
        self._marked = False
        self._next = 0.0
        self._started = time.monotonic()

    def line(self, text: str) -> None:
        """One line that stays."""
        if self._quiet:
            return
        if self._bar:
            self._stream.write("\r\x1b[K")
            self._bar = False
        self._stream.write(f"[{time.monotonic() - self._started:6.1f} s] {text}\n")
        self._stream.flush()
        self._next = time.monotonic() + 10

    def progress(self, fraction: float, text: str) -> None:
        """The finished fraction (0-1) of the present stage."""
        if self._quiet:
            return
        before, self._marked = self._marked, any(mark in text for mark in MARKS)
        if self._marked and not before:
            self.line(f"  {100 * fraction:3.0f} %  {text}")
        elif self._stream.isatty():
            done = round(30 * fraction)
            self._stream.write(f"\r\x1b[K  {'█' * done}{'·' * (30 - done)} {100 * fraction:3.0f} %  {text}")
            self._stream.flush()
            self._bar = True
        elif time.monotonic() >= self._next:
            self.line(f"  {100 * fraction:3.0f} %  {text}")
