"""`bench`: a bundle against its baselines, each in its own process, with paired, interleaved rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from attar.runtime.bench.client import Worker, module_for
from attar.runtime.bench.paired import summarize
from attar.runtime.bench.result import BenchResult, Speedup, SystemResult
from attar.runtime.bundle import Bundle
from attar.runtime.cpu import machine, usable_cores
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tokenizer import Text

SINGLE_TEXTS = 60
WHOLE_TEXTS = 512
TUNE_TEXTS = 256
PAUSE = 0.1
"""Seconds before each measurement, in which the idle threads of the other process stop spinning."""

Progress = Callable[[str], None]


@dataclass
class _System:
    """A worker and what it has measured: `calls` in ns, and one value a round in `p50` and `rates`."""

    worker: Worker
    kind: str
    batch: int = 0
    calls: list[int] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def result(self) -> SystemResult:
        ordered = sorted(self.calls)
        p50, p90, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * q))] / 1e6 for q in (0.5, 0.9, 0.99))
        return SystemResult(self.worker.name, self.kind, p50, p90, p99, median(self.rates), self.batch)


def bench(
    bundle: Path,
    against: Sequence[Path],
    texts: Sequence[Text],
    labels: Sequence[Any] | None = None,
    rounds: int = 9,
    threads: int | None = None,
    progress: Progress | None = None,
    choice: Choice | None = None,
) -> BenchResult:
    """Measures `bundle` and every folder in `against`: text in, label out, tokenizer included.

    Args:
        against: bundles or Hugging Face folders; the ratios are baseline time over bundle time.
        texts: at most 512 of them are timed, a fixed random choice; 60 of those one by one.
        labels: the right label of each text, for what the task's gate judges, on all texts.
        rounds: at least 2; each gives one ratio a baseline and metric.
        threads: of each system; by default the cores that this process may use.
        choice: the engine of `bundle`; bundles in `against` keep the default one.
        progress: called with one short line at every step.

    Raises:
        AttarError: a system cannot be loaded, or its process died; the message holds its last words.
    """
    count = usable_cores() if threads is None else threads
    _check(texts, labels, rounds, count)
    say = progress or (lambda _: None)
    read = Bundle.read(bundle)
    task = read.manifest.task
    _ = [module_for(path) for path in against]  # a wrong path is refused before any worker starts
    timed = task.inputs(texts)
    whole = _choose(timed, min(len(timed), WHOLE_TEXTS))
    rows = task.encode(task.reader(read.contents["tokenizer.json"], read.manifest.pad_id), whole).ids
    tokens = sum(map(len, rows)) / len(whole)
    paths: list[tuple[Path, Choice | None]] = [(bundle, choice), *((path, None) for path in against)]
    with ExitStack() as stack:
        systems = []
        for name, (path, engine) in zip(_names([path for path, _ in paths]), paths, strict=True):
            say(f"loading {name}")
            systems.append(_start(stack.enter_context(Worker(name, path, count, task.max_length, engine))))
        accuracy, notes = _accuracy(systems, task.gates_on(texts), texts, labels, say)
        _tune(systems, whole[:TUNE_TEXTS], say)
        _measure(systems, whole, rounds, say)
    return replace(_result(systems, len(whole), tokens, count), accuracy=accuracy, notes=tuple(notes))


def _result(systems: Sequence[_System], texts: int, tokens: float, threads: int) -> BenchResult:
    """What was measured on this many texts of `tokens` tokens on average, without the accuracy."""
    return BenchResult(
        systems=tuple(s.result() for s in systems),
        ratios=tuple(r for baseline in systems[1:] for r in _speedups(systems[0], baseline)),
        machine=machine(),
        threads=threads,
        texts=texts,
        mean_tokens=tokens,
        how=_how(len(systems[0].p50), min(SINGLE_TEXTS, texts)),
    )


def _check(texts: Sequence[Text], labels: Sequence[Any] | None, rounds: int, threads: int) -> None:
    if not texts:
        raise DataError("a benchmark needs at least one text")
    if labels is not None and len(labels) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(labels)} labels")
    if rounds < 2:
        raise SettingsError(f"rounds must be at least 2, not {rounds}: an interval needs them")
    if threads < 1:
        raise SettingsError(f"threads must be at least 1, not {threads}")


def _choose(texts: Sequence[Text], count: int) -> list[Text]:
    """A fixed random choice, so that a sorted file still gives its real distribution of lengths."""
    return random.Random(0).sample(list(texts), count)


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, numbered where they repeat."""
    names: list[str] = []
    for path in paths:
        base = path.resolve().name
        names.append(base if base not in names else f"{base}#{len(names) + 1}")
    return names


def _start(worker: Worker) -> _System:
    reply = worker.ask("load")
    return _System(worker, reply["kind"])


def _tune(systems: Sequence[_System], texts: list[Text], say: Progress) -> None:
    for system in systems:
        say(f"tuning the batches of {system.worker.name}")
        time.sleep(PAUSE)
        system.batch = system.worker.ask("tune", texts)["batch"]


def _measure(systems: Sequence[_System], whole: list[Text], rounds: int, say: Progress) -> None:
    """All rounds. A B, B A, B A, A B, ...: none always goes first, and of three none stays in the middle."""
    single = whole[:SINGLE_TEXTS]
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        shift = (number // 2) % len(systems)
        order = [*systems[shift:], *systems[:shift]]
        if number % 2:
            order.reverse()
        for system in order:
            time.sleep(PAUSE)
            calls = system.worker.ask("latency", single)["ns"]
            system.calls += calls
            system.p50.append(median(calls))
        for system in order:
            time.sleep(PAUSE)
            reply = system.worker.ask("throughput", whole)
            system.rates.append(reply["texts"] / reply["seconds"])


def _speedups(ours: _System, baseline: _System) -> list[Speedup]:
    """Per-round ratios: how many times faster our bundle is."""
    p50 = [b / a for a, b in zip(ours.p50, baseline.p50, strict=True)]
    rate = [a / b for a, b in zip(ours.rates, baseline.rates, strict=True)]
    name = baseline.worker.name
    return [Speedup(name, "p50", summarize(p50)), Speedup(name, "throughput", summarize(rate))]


def _accuracy(
    systems: Sequence[_System],
    gates: Sequence[str],
    texts: Sequence[Text],
    labels: Sequence[Any] | None,
    say: Progress,
) -> tuple[dict[str, Any] | None, list[str]]:
    """What the gate judges, in points of each system, and a note for each whose labels are not those of the data."""
    if labels is None:
        return None, []
    points: list[float | None] = []
    notes = []
    for system in systems:
        name = system.worker.name
        say(f"{' and '.join(gates)} of {name}")
        reply = system.worker.ask("evaluate", texts, labels)
        if "note" in reply:
            notes.append(f"{name}: {reply['note']}: not judged")
            points.append(None)
            continue
        points.append(round(sum(reply["points"][gate] for gate in gates) / len(gates), 3))
    baselines = {s.worker.name: p for s, p in zip(systems[1:], points[1:], strict=True)}
    return {"measure": " and ".join(gates), "bundle": points[0], "baselines": baselines}, notes


def _how(rounds: int, single: int) -> str:
    return (
        f"{rounds} interleaved rounds in alternating order, each system in its own process with the same "
        f"number of threads and tuned batches, text in to answer out; p50 over {single} single texts a round; "
        "ratios are geometric means of per-round ratios with a 95 % t interval."
    )
