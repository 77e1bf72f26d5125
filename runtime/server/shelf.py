"""The bundles of a folder, and what changes there while they are served: which versions may take over, and when."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from attar.runtime.bundle import MANIFEST
from attar.runtime.errors import AttarError, BundleError, SettingsError
from attar.runtime.server.columns import columns
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import find_bundles, inputs_of, labels_of
from attar.runtime.tasks.base import Task

T = TypeVar("T")
S = TypeVar("S")

log = logging.getLogger("attar.server")


@dataclass(frozen=True)
class Opened(Generic[T]):
    """A bundle that was verified and has reproduced its golden inputs, and what makes of it what a shelf holds."""

    name: str
    task: Task
    make: Callable[[], T]


@dataclass(frozen=True)
class Changes(Generic[T]):
    """What was opened, what is gone, and why others were not taken, by the names of models."""

    opened: Mapping[str, T] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class Shelf(Generic[T]):
    """What is made of the bundles at `path`, by name. `open_` gets a bundle's name, or None for a single one."""

    def __init__(self, path: Path, open_: Callable[[str | None, Path], Opened[T]]) -> None:
        self.path, self._open = path, open_
        self.opened: dict[str, T] = {}
        self.tasks: dict[str, Task] = {}
        self.seals: dict[str, str] = {}
        self.single = False

    def load(self) -> None:
        """Opens every bundle; the first that cannot be opened is an error of all."""
        bundles = find_bundles(self.path)
        self.single = None in bundles
        for name, path in bundles.items():
            seal = seal_of(path)  # before the bundle is read: a change in between is then found later
            self._put(self._open(name, path), seal)

    def _put(self, found: Opened[T], seal: str) -> T:
        value = self.opened[found.name] = found.make()
        self.tasks[found.name], self.seals[found.name] = found.task, seal
        return value

    def adopt(self, other: Shelf[S], make: Callable[[str, S], T]) -> None:
        """Opens what another shelf of the same path has open, without reading it again."""
        self.single, self.seals, self.tasks = other.single, dict(other.seals), dict(other.tasks)
        self.opened = {name: make(name, value) for name, value in other.opened.items()}

    def differs(self) -> bool:
        """Whether something else lies there than what is open."""
        try:
            return {name: seal_of(path) for name, path in self._bundles().items()} != self.seals
        except AttarError:
            return True

    def refresh(self) -> Changes[T]:
        """Opens what is new or changed and forgets what is gone; whatever is refused leaves things as they were."""
        try:
            bundles = self._bundles()
        except AttarError as error:
            return Changes(refused={name: str(error) for name in self.opened})
        opened, refused = {}, {}
        for name, path in bundles.items():
            try:
                seal = seal_of(path)
                if self.seals.get(name) != seal:
                    found = self._open(name, path)
                    self._check(name, found.task)
                    opened[name] = self._put(found, seal)
            except AttarError as error:
                refused[name] = str(error)
            except Exception as error:  # whatever a broken model makes of an engine; its words could quote a text
                refused[name] = f"it cannot be loaded: {type(error).__name__}"
        removed = tuple(sorted(self.opened.keys() - bundles.keys()))
        for name in removed:
            del self.opened[name], self.tasks[name], self.seals[name]
        return Changes(opened, removed, refused)

    def _bundles(self) -> dict[str, Path]:
        """By the names of models: a single bundle keeps the one that it had first."""
        bundles = find_bundles(self.path)
        if (None in bundles) != self.single:
            was, now = ("one bundle", "a folder of bundles") if self.single else ("a folder of bundles", "one bundle")
            raise BundleError(f"{self.path} was {was} and is {now} now; restart the server")
        only = next(iter(self.opened), "")
        return {only if name is None else name: path for name, path in bundles.items()}

    def _check(self, name: str, task: Task) -> None:
        """Refuses a bundle that gives clients something else than the one of this name did."""
        if name not in self.opened:
            return
        before, now = promise(self.tasks[name]), promise(task)
        changed = [key for key in before if before[key] != now[key]]
        if changed:
            raise SettingsError(
                f"its {' and '.join(changed)} differ from what the clients of {name!r} were promised; serve it under "
                "another name, or restart the server"
            )


def promise(task: Task) -> dict[str, Any]:
    """What clients of a model build on."""
    parts = [(name, promise(part)) for name, part in getattr(task, "parts", ())]
    outputs = [(column.name, column.datatype, column.width) for column in columns(task)]
    return {"task": task.kind, "inputs": inputs_of(task), "labels": (labels_of(task), parts), "outputs": outputs}


def seal_of(path: Path) -> str:
    """What tells a bundle from all others: the hash of its manifest, which holds those of its files."""
    try:
        return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{path / MANIFEST} cannot be read: {error.strerror}") from error


def report(changes: Changes[Any], meter: Meter) -> None:
    """Logs and counts what came of a reload."""
    for name, reason in changes.refused.items():
        log.error("reload refused", extra={"fields": {"model": name, "reason": reason}})
    found = {"loaded": changes.opened, "removed": changes.removed, "refused": changes.refused}
    for result, names in found.items():
        for name in names:
            meter.count("reloads_total", model=name, result=result)
    log.warning("reloaded", extra={"fields": {result: sorted(names) for result, names in found.items()}})


Files = list[tuple[str, int, int, int]]


class Watch:
    """Tells when to refresh a shelf: something else lies there, it lay still since the last look, and is not known."""

    def __init__(self, shelf: Shelf[Any]) -> None:
        self._shelf = shelf
        self._last: Files | None = None
        self._known: Files | None = None

    def due(self) -> bool:
        """Whether to refresh now. Bundles that are still being copied are left in peace, and bad ones tried once."""
        now = files_of(self._shelf.path)
        still, self._last = now == self._last, now
        if not still or now == self._known:
            return False
        self._known = now
        return self._shelf.differs()


def files_of(path: Path) -> Files:
    """Every file of the bundles at a path with what changes when it is written; none where none can be read."""
    try:
        files = sorted(file for bundle in find_bundles(path).values() for file in bundle.iterdir())
        found = [(str(file), file.stat()) for file in files]
    except (BundleError, OSError):
        return []
    return [(name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found]
