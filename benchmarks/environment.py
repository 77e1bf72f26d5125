"""Environments of others than attar: made where their pins are new, and asked without the caller's Python path."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from attar.runtime.errors import AttarError

MINUTES = 10
"""What a command may take."""


def interpreter(environment: Path, commands: Sequence[Sequence[str]], pins: str = "") -> Path:
    """The Python of an environment, made anew where its pins have changed since.

    The commands are the arguments of each `pip install`; they are the pins where none are given.
    """
    python, done = (environment / "bin" / "python").absolute(), environment / "installed.txt"
    wanted = pins or "\n".join(" ".join(command) for command in commands)
    if not done.is_file() or done.read_text(encoding="utf-8") != wanted:
        run([sys.executable, "-m", "venv", "--clear", str(environment)], "has no environment")
        for command in commands:
            run([str(python), "-m", "pip", "install", *command], "does not install")
        done.write_text(wanted, encoding="utf-8")
    return python


def run(
    command: Sequence[str], trouble: str, folder: Path | None = None, path: str | None = None, minutes: int = MINUTES
) -> None:
    """Runs in a folder, with `path` for the Python path; `AttarError` with the last line it printed where it fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean |= {"PYTHONPATH": path} if path else {}
    try:
        found = subprocess.run(command, env=clean, cwd=folder, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired as error:
        raise AttarError(f"{trouble}: took more than {minutes} minutes") from error
    if found.returncode:
        lines = [line.strip() for line in (found.stderr or found.stdout).splitlines() if line.strip()]
        raise AttarError(f"{trouble}: {lines[-1][:200] if lines else f'exit status {found.returncode}'}")
