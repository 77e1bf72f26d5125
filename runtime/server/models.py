"""The models of a server, each behind its batcher, and the state that all of them are in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from attar.runtime.batcher import Batcher, Limits
from attar.runtime.bundle import MANIFEST
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.model import Model, load
from attar.runtime.server.metrics import Meter
from attar.runtime.server.refusals import RefusedError
from attar.runtime.tasks.base import Task


@dataclass(frozen=True)
class Served:
    """A model by the name that requests call it."""

    name: str
    model: Model
    batcher: Batcher


class Models:
    """Loading, then ready, then draining; `admitted` counts requests for answers, `active` those being worked on."""

    def __init__(self, meter: Meter, limits: Limits) -> None:
        self.meter, self.limits = meter, limits
        self.state: Literal["loading", "ready", "draining"] = "loading"
        self.served: dict[str, Served] = {}
        self.active = self.admitted = 0
        meter.gauge("active_requests", (), lambda: self.active)

    def add(self, name: str, model: Model, warm_up: float = 0.0) -> None:
        """Puts a model behind a batcher of its own and computes typical shapes for so many seconds."""
        batcher = Batcher(model, self.limits, self.meter.observer(name))
        if warm_up:
            batcher.warm_up(warm_up)
        labels = (("model", name),)
        self.meter.gauge("queue_requests", labels, lambda: batcher.waiting_requests)
        self.meter.gauge("queue_tokens", labels, lambda: round(batcher.waiting_tokens))
        self.served[name] = Served(name, model, batcher)

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


def load_bundles(
    models: Models, bundles: Mapping[str | None, Path], threads: int | None, options: Mapping[str, Any],
    warm_up: float, choice: Choice,
) -> None:  # fmt: skip
    """Loads bundles one after another; the first that cannot be loaded is an error of all."""
    if options and None not in bundles:
        raise SettingsError("options of the task are for a single bundle; serve this one alone")
    for name, path in bundles.items():
        model = load(path, threads=threads, options=options, **asdict(choice))
        models.add(model.manifest.name if name is None else name, model, warm_up / len(bundles))


def inputs_of(task: Task) -> tuple[str, ...]:
    """What the task calls the texts of an input."""
    if task.kind == "question-answering":
        return ("question", "context")
    return ("text", "text_pair") if task.pairs else ("text",)


def labels_of(task: Task) -> list[str]:
    """The labels or tags that answers are made of, where there is one list of them."""
    return list(getattr(task, "labels", ()) or getattr(task, "tags", ()))
