"""The cache of finished stages: a folder a stage, keyed by the content of its inputs and its settings.

A stage is written aside and renamed when it is done, so a killed run leaves only whole stages and goes on after them.
A long training keeps a checkpoint in a folder beside its stage, `NAME-KEY.training`, and goes on from that.
Of several processes the first one writes here; the others take part in training alone, and read what it wrote.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from attar.distill import processes
from attar.distill.resume import Checkpoints
from attar.runtime.bundle import aside
from attar.runtime.errors import SettingsError
from attar.runtime.version import __version__


def key_of(*parts: Any) -> str:
    """A hash of JSON-able parts and of attar's version."""
    raw = json.dumps([__version__, *parts], sort_keys=True, default=str)
    return hashlib.sha256(raw.encode()).hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """sha256 over the names and contents of a folder's files."""
    state = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        state.update(str(path.relative_to(folder)).encode())
        state.update(hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


TRAINING = ".training"


class Stages:
    """Runs stages once. `root` is the cache folder of one output folder; nothing resumes in one that does not last."""

    def __init__(self, root: Path, lasts: bool = True) -> None:
        self.root, self.lasts = root, lasts
        self.seconds: dict[str, float] = {}
        self.cached: dict[str, bool] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot make the folder {root} ({error.strerror}); choose another --out") from error
        for left in [*root.glob(".*.part"), *root.glob(".*.old")] if processes.leads() else []:
            shutil.rmtree(left, ignore_errors=True)

    def checkpoints(self, name: str, key: str) -> Checkpoints | None:
        """Where a stage's training keeps what it needs to go on after a kill."""
        return Checkpoints(self.root / f"{name}-{key}{TRAINING}") if self.lasts else None

    def run(
        self, name: str, key: str, work: Callable[[Path], dict[str, Any]], together: bool = False
    ) -> tuple[Path, dict[str, Any]]:
        """The stage's folder and its result; `work` fills a new folder, and is called only if there is none.

        `together`: all processes call it, for they train in it; what those beside the first write is thrown away.
        """
        folder = self.root / f"{name}-{key}"
        done = folder / "stage.json"
        self.cached[name] = processes.told(done.is_file())
        if not self.cached[name]:
            _make(folder, work, together)
        if processes.leads():
            self._forget(name, folder)
        processes.wait()
        record = json.loads(done.read_text(encoding="utf-8"))
        self.seconds[name] = record["seconds"]
        return folder, record["result"]

    def _forget(self, name: str, folder: Path) -> None:
        """The stage is whole: earlier settings of it, and what is left of their trainings, would only fill the disk."""
        for old in self.root.glob(f"{name}-*"):
            if old != folder and len(old.name.removesuffix(TRAINING)) == len(folder.name):
                shutil.rmtree(old, ignore_errors=True)


def _make(folder: Path, work: Callable[[Path], dict[str, Any]], together: bool) -> None:
    if not processes.leads():
        if together:
            with tempfile.TemporaryDirectory() as scratch:
                work(Path(scratch))
        return
    started = time.monotonic()
    with aside(folder) as part:
        with nullcontext() if together else processes.alone():
            result = work(part)
        record = {"result": result, "seconds": round(time.monotonic() - started, 2)}
        (part / "stage.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def publish(source: Path, target: Path) -> None:
    """Copies a stage's folder to where users look for it, as a whole; nothing where it is there already."""
    if processes.leads() and not (target.is_dir() and folder_digest(source) == folder_digest(target)):
        with aside(target) as part:
            shutil.copytree(source, part, dirs_exist_ok=True)
    processes.wait()
