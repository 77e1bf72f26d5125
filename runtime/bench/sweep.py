"""Throughput of every system over batch sizes, lengths, threads and engines: a table with an interval in each cell."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from attar.runtime.bench.client import Subject
from attar.runtime.bench.coordinator import choose, refuse_others, start, subjects
from attar.runtime.bench.decide import Certificate, certify, trimmed
from attar.runtime.bench.paired import Ratio
from attar.runtime.bench.result import NOISY, aligned
from attar.runtime.bench.rounds import Plan, Progress, Runner, throughput, turns
from attar.runtime.bundle import Bundle
from attar.runtime.cpu import machine, usable_cores
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Task
from attar.runtime.tokenizer import Text, Tokenizer

AXES = ("batch", "length", "threads", "engine")
ROUNDS = 9
ENGINES = {
    "onnx": Choice(),
    "openvino": Choice("openvino"),
    "cuda": Choice("onnx", "cuda"),
    "tensorrt": Choice("tensorrt"),
}
"""What the bundle is loaded with, by the names that a sweep uses."""
SECONDS = 0.1
"""Of a measurement: a cell has few texts, which repeat."""


@dataclass(frozen=True)
class Sweep:
    """What is varied; every combination is measured.

    `lengths` in tokens, None: of the data as they are; `threads` None: the cores that may be used; `engines` of the
    bundle, of `ENGINES`.
    """

    batches: tuple[int, ...] = (1,)
    lengths: tuple[int | None, ...] = (None,)
    threads: tuple[int | None, ...] = (None,)
    engines: tuple[str, ...] = ("onnx",)


@dataclass(frozen=True)
class Cell:
    """One system at one point; `speedup` is the bundle's over it by throughput, None for the bundle itself."""

    batch: int
    tokens: float
    threads: int
    engine: str
    system: str
    ms: float
    throughput_per_s: float
    speedup: Ratio | None
    certificate: Certificate

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "tokens": round(self.tokens, 1),
            "threads": self.threads,
            "engine": self.engine,
            "system": self.system,
            "ms": round(self.ms, 4),
            "throughput_per_s": round(self.throughput_per_s, 2),
            "speedup": None if self.speedup is None else self.speedup.to_json(),
            "certificate": self.certificate.to_json(),
        }


@dataclass(frozen=True)
class SweepResult:
    """All cells, the bundle's first at every point."""

    cells: tuple[Cell, ...]

    @property
    def noisy(self) -> bool:
        return any(cell.certificate.noisy for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        return {"sweep": [cell.to_json() for cell in self.cells], "machine": machine()}

    def table(self) -> str:
        """For people."""
        rows = [["batch", "tokens", "threads", "engine", "system", "ms a batch", "texts/s", "bundle against it", "A/A"]]
        for cell in self.cells:
            point = [str(cell.batch), f"{cell.tokens:.1f}", str(cell.threads), cell.engine, cell.system]
            times = "" if cell.speedup is None else f"{cell.speedup.ratio:.2f}x {_bounds(cell.speedup)}"
            same = _bounds(cell.certificate.ratios["throughput"]) + (f" {NOISY}" if cell.certificate.noisy else "")
            rows.append([*point, f"{cell.ms:.3f}", f"{cell.throughput_per_s:.1f}", times, same])
        return "\n".join(aligned(rows))


def read_sweep(given: Sequence[str]) -> Sweep:
    """`batch=1,8 length=16,64 threads=1,2 engine=onnx,cuda`; `SettingsError` names what is wrong."""
    found: dict[str, tuple[Any, ...]] = {}
    for part in given:
        name, _, values = part.partition("=")
        if name not in AXES:
            raise SettingsError(f"a sweep is over {', '.join(AXES)}, each as NAME=VALUE,VALUE; not {part!r}")
        if name in found:
            raise SettingsError(f"a sweep names {name} once: {name}={','.join(map(str, found[name]))},...")
        found[name] = tuple(_value(name, value) for value in values.split(","))
    fields = {"batch": "batches", "length": "lengths", "threads": "threads", "engine": "engines"}
    return replace(Sweep(), **{fields[name]: values for name, values in found.items()})


def _value(name: str, value: str) -> int | str:
    if name == "engine":
        if value not in ENGINES:
            raise SettingsError(f"engine is one of {', '.join(ENGINES)}, not {value!r}")
        return value
    if not value.isdecimal() or int(value) < 1:
        raise SettingsError(f"{name} is a whole number from 1 on, not {value!r}")
    return int(value)


def sweep(
    bundle: Path,
    against: Sequence[Path | Subject],
    texts: Sequence[Text],
    over: Sweep,
    rounds: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Measures everything at every point, in interleaved rounds, the bundle's twin with it.

    Args:
        against: as for `bench`; the engine is that of the bundle alone.
        texts: where the lengths are varied, their words one after another; else a fixed random choice of them.
    """
    if not texts:
        raise DataError("a benchmark needs at least one text")
    say = progress or (lambda _: None)
    read = Bundle.read(bundle)
    task = read.manifest.task
    reader = task.reader(read.contents["tokenizer.json"], read.manifest.pad_id)
    inputs = task.inputs(texts)
    points = [(b, n, _texts(task, reader, inputs, n, b)) for b in over.batches for n in over.lengths]
    cells: list[Cell] = []
    for threads in (usable_cores() if n is None else n for n in over.threads):
        for engine in over.engines:
            plan = Plan(rounds or ROUNDS, seconds=SECONDS, processor=threads == 1 and engine == "onnx")
            systems = subjects(bundle, against, task.max_length, ENGINES[engine])
            with ExitStack() as stack:
                started = [start(stack, s, threads, inputs[:1], say) for s in systems]
                refuse_others(started)
                for batch, length, given in points:
                    where = f"batch {batch}, {length or 'mixed'} tokens, {threads} threads, {engine}"
                    say(where)
                    runners = [Runner(s.runner.worker, s.runner.kind) for s in started]
                    rows = task.encode(reader, given).ids
                    certificate = _cell(runners, given, max(map(len, rows)), plan)
                    tokens = sum(map(len, rows)) / len(rows)
                    cells += [
                        Cell(batch, tokens, threads, engine, *figures, certificate)
                        for figures in _figures(runners, batch, plan)
                    ]
    return SweepResult(tuple(cells))


def _cell(runners: Sequence[Runner], texts: Sequence[Text], longest: int, plan: Plan) -> Certificate:
    for runner in runners:
        runner.worker.ask("fix", {"rows": len(texts), "tokens": longest})
    for number in range(plan.looks[-1]):
        for runner in turns(runners, number):
            throughput(runner, texts, plan, ())
    return certify({"throughput": _speedup(runners[0], runners[1], plan)})


def _speedup(ours: Runner, other: Runner, plan: Plan) -> Ratio:
    return trimmed([a / b for a, b in zip(ours.rates, other.rates, strict=True)], plan.confidence)


def _figures(runners: Sequence[Runner], batch: int, plan: Plan) -> list[tuple[str, float, float, Ratio | None]]:
    """Name, milliseconds a batch, texts a second and speed-up of each system but the twin."""
    ours, _, *others = runners
    rows: list[tuple[str, float, float, Ratio | None]] = []
    for runner in (ours, *others):
        rate = median(runner.walls)
        speedup = None if runner is ours else _speedup(ours, runner, plan)
        rows.append((runner.worker.name, 1e3 * batch / rate, rate, speedup))
    return rows


def _texts(task: Task, reader: Tokenizer, texts: Sequence[Text], length: int | None, count: int) -> list[Text]:
    """A batch of this many texts, of this many tokens or of the data's own lengths."""
    if length is None:
        return list(islice(cycle(choose(texts, len(texts))), count))
    if length > task.max_length:
        raise SettingsError(f"length={length}: the bundle reads {task.max_length} tokens at most")
    words = [word for text in texts for word in (text if isinstance(text, str) else " ".join(text)).split()]
    if not words:
        raise DataError("the texts hold no words to make texts of a given length from")
    return [_text(task, reader, words, length, number) for number in range(count)]


def _text(task: Task, reader: Tokenizer, words: Sequence[str], length: int, number: int) -> Text:
    """The most words in a row, from a place of its own on, that make no more than `length` tokens."""
    run = list(islice(cycle(words), (number * length) % len(words), (number * length) % len(words) + length))
    low, high = 0, length
    while low < high:  # the tokens grow with the words
        middle = (low + high + 1) // 2
        rows = task.encode(reader, [_made(task, run[:middle])]).ids
        low, high = (middle, high) if len(rows) == 1 and len(rows[0]) <= length else (low, middle - 1)
    if low == 0:
        raise SettingsError(f"length={length}: not one word fits beside the tokens that begin and end a text")
    # A text that would be cut is as long as the bundle reads, however many words follow.
    return _made(task, run[:low])


def _made(task: Task, words: Sequence[str]) -> Text:
    return (
        (" ".join(words[: len(words) // 4 or 1]), " ".join(words[len(words) // 4 :])) if task.pairs else " ".join(words)
    )


def _bounds(ratio: Ratio) -> str:
    return f"[{ratio.low:.2f}, {ratio.high:.2f}]"
