"""One published table as a JSON file: the evidence that benchmarks/RESULTS.md is made from."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from attar.runtime.cpu import machine
from attar.runtime.version import __version__

PACKAGES = ("numpy", "onnxruntime", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Record:
    """A table: what it shows, its cells as they are printed, and where the numbers come from.

    Attributes:
        note: what a reader must know of how it was measured.
        data: the numbers behind the cells, with those that the table leaves out.
        command, date, machine, versions: of this process, unless given.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    data: Any = None
    command: str = field(default_factory=lambda: command_line())
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d"))
    machine: Mapping[str, Any] = field(default_factory=machine)
    versions: Mapping[str, str] = field(default_factory=lambda: installed())

    def write(self, path: Path | None) -> None:
        """Nothing where no file was asked for."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def command_line() -> str:
    """How this process was called, seen from the repository's root."""
    root = Path(__file__).resolve().parents[1]
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(root) if script.is_relative_to(root) else script.name
    return shlex.join(["python", str(name), *sys.argv[1:]])


def installed() -> dict[str, str]:
    """attar and those packages of this environment that decide about numbers."""
    found = {"attar": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cells(line: str) -> list[str]:
    """The cells of a Markdown row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
