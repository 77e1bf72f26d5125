"""The models of a server, each behind its batcher, and the state that all of them are in."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attar.runtime.batcher import Batcher, Limits
from attar.runtime.bundle import MANIFEST
from attar.runtime.errors import BundleError
from attar.runtime.model import Model
from attar.runtime.server.metrics import Meter
from attar.runtime.server.refusals import RefusedError
from attar.runtime.tasks.base import Task


@dataclass(frozen=True)
class Served:
    """A model by the name that requests call it. Once nobody holds this any more, the batcher is closed."""

    name: str
    model: Model
    batcher: Batcher


class Models:
    """Loading, then ready, then draining.

    `admitted` counts requests for answers, `active` those being worked on, `finished` requests of every kind.
    """

    def __init__(self, meter: Meter, limits: Limits) -> None:
        self.meter, self.limits = meter, limits
        self.state: Literal["loading", "ready", "draining"] = "loading"
        self.served: dict[str, Served] = {}
        self.active = self.admitted = self.finished = 0
        self.metrics: Callable[[], str] = meter.text
        meter.gauge("active_requests", (), lambda: self.active)

    def add(self, name: str, model: Model, warm_up: float = 0.0) -> None:
        """Serves a model."""
        self.put(self.prepare(name, model, warm_up))

    def prepare(self, name: str, model: Model, warm_up: float = 0.0) -> Served:
        """A model behind a batcher of its own, after typical shapes were computed for so many seconds."""
        batcher = Batcher(model, self.limits, self.meter.observer(name))
        try:
            if warm_up:
                batcher.warm_up(warm_up)
        except BaseException:
            batcher.close(drain=False)
            raise
        served = Served(name, model, batcher)
        # A request that is still reading its body has the model as well as one that waits for its answer.
        weakref.finalize(served, _close, [batcher]).atexit = False
        return served

    def put(self, *models: Served) -> None:
        """Requests of their names are theirs from now on; those that have another model keep it to their end."""
        for served in models:
            if served.name in self.served:
                served.batcher.learn_from(self.served[served.name].batcher)
            self._gauge(served.name, served.batcher)
            self.served[served.name] = served

    def _gauge(self, name: str, batcher: Batcher) -> None:
        labels = (("model", name),)
        self.meter.gauge("queue_requests", labels, lambda: batcher.waiting_requests)
        self.meter.gauge("queue_tokens", labels, lambda: round(batcher.waiting_tokens))

    def remove(self, name: str) -> None:
        """There is no model of this name any more; requests that have it keep it to their end."""
        for gauge in ("queue_requests", "queue_tokens"):
            self.meter.drop_gauge(gauge, (("model", name),))
        del self.served[name]

    def get(self, name: str) -> Served:
        """The model of this name; else 404, with the names that there are."""
        found = self.served.get(name)
        if found is None:
            known = ", ".join(sorted(self.served))
            raise RefusedError(404, f"there is no model of that name; known: {known}", "unknown model")
        return found

    def only(self) -> Served:
        """The model of a server that has one alone; else 404."""
        if len(self.served) != 1:
            known = ", ".join(sorted(self.served))
            raise RefusedError(404, f"several models are served: name one by POST /models/NAME/predict; known: {known}",
                               "unknown model")  # fmt: skip
        return next(iter(self.served.values()))

    def close(self, drain: bool = True) -> None:
        for served in self.served.values():
            served.batcher.close(drain)


def _close(last: list[Batcher]) -> None:
    """In a thread of its own: it waits for what is still computed, and the event loop may be what calls this.

    The list holds the last reference, so that the model's memory is free before it is given back.
    """

    def work() -> None:
        last.pop().close()
        trim()

    threading.Thread(target=work, name="attar-closing", daemon=True).start()


def trim() -> None:
    """Gives freed memory back, which glibc keeps where something small lies behind it; other systems do by themselves.

    Without it a dozen reloads nearly doubled the resident memory of a server.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def find_bundles(path: str | os.PathLike[str]) -> Mapping[str | None, Path]:
    """The bundles to serve: a single one, under None, at `path`; or those in its folders, by the folders' names."""
    root = Path(path)
    if not root.is_dir():
        raise BundleError(f"no bundle at {root}: it should be a folder with a {MANIFEST}, or a folder of bundles")
    if (root / MANIFEST).exists():
        return {None: root}
    found: dict[str | None, Path] = {
        f.name: f for f in sorted(root.iterdir()) if (f / MANIFEST).is_file() and not f.name.startswith(".")
    }
    if not found:
        raise BundleError(f"no bundle at {root}: neither it nor a folder in it holds a {MANIFEST}")
    return found


def inputs_of(task: Task) -> tuple[str, ...]:
    """What the task calls the texts of an input."""
    if task.kind == "question-answering":
        return ("question", "context")
    return ("text", "text_pair") if task.pairs else ("text",)


def labels_of(task: Task) -> list[str]:
    """The labels or tags that answers are made of, where there is one list of them."""
    return list(getattr(task, "labels", ()) or getattr(task, "tags", ()))
