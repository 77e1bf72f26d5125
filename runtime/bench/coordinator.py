"""`bench`: a bundle against its baselines, each in its own process, with paired, interleaved rounds."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from attar.runtime.bench.client import Subject, Worker, engine_of, module_for, subject
from attar.runtime.bench.result import BenchResult, Speedup, SystemResult
from attar.runtime.bench.rounds import Plan, Progress, Runner, measure, ratios
from attar.runtime.bench.same import refuse_another_task
from attar.runtime.bench.usage import meters
from attar.runtime.bundle import Bundle
from attar.runtime.cpu import machine, usable_cores
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tokenizer import Text

WHOLE_TEXTS = 512
TUNE_TEXTS = 256
FEW_TEXTS = 30
"""Different texts below which a note says that they stand for no real traffic."""
TWIN = "the bundle again"


def bench(
    bundle: Path,
    against: Sequence[Path | Subject],
    texts: Sequence[Text],
    labels: Sequence[Any] | None = None,
    rounds: int | None = 9,
    threads: int | None = None,
    progress: Progress | None = None,
    choice: Choice | None = None,
) -> BenchResult:
    """Measures `bundle`, its twin and everything in `against`: text in, label out, tokenizer included.

    Args:
        against: bundles or Hugging Face folders, or how to start another; the ratios are their time over the bundle's.
        texts: at most 512 of them are timed, a fixed random choice; 60 of those one by one.
        labels: the right label of each text, for what the task's gate judges, on all texts.
        rounds: at least 2; each gives one ratio a baseline and metric. None: as `Plan` says.
        threads: of each system; by default the cores that this process may use.
        choice: the engine of `bundle`; bundles in `against` keep the default one.
        progress: called with one short line at every step.

    Raises:
        AttarError: a system cannot be loaded or does another task, or its process died; the message holds its last
            words. Nothing is measured then: no system is left out in silence.
    """
    count = usable_cores() if threads is None else threads
    plan = Plan(rounds, processor=count == 1)
    _check(texts, labels, count)
    say = progress or (lambda _: None)
    read = Bundle.read(bundle)
    task = read.manifest.task
    timed = task.inputs(texts)
    whole = choose(timed, min(len(timed), WHOLE_TEXTS))
    rows = task.encode(task.reader(read.contents["tokenizer.json"], read.manifest.pad_id), whole).ids
    with ExitStack() as stack:
        started = [start(stack, s, count, whole[:1], say) for s in subjects(bundle, against, task.max_length, choice)]
        refuse_others(started)
        runners = [s.runner for s in started]
        accuracy, notes = _accuracy([runners[0], *runners[2:]], task.gates_on(texts), texts, labels, say)
        _tune(runners, whole[:TUNE_TEXTS], plan, say)
        read_by, unread = meters()
        certificate = measure(runners, whole, plan, say, read_by)
        systems = [_result(s) for s in started]
    return BenchResult(
        systems=(systems[0], *systems[2:]),
        ratios=tuple(
            Speedup(other.worker.name, metric, value)
            for other in runners[2:]
            for metric, value in ratios(runners[0], other, plan).items()
        ),
        certificate=certificate,
        machine=machine(),
        threads=count,
        texts=len(whole),
        mean_tokens=sum(map(len, rows)) / len(whole),
        how=_how(len(runners[0].p50), min(plan.singles, len(whole)), plan),
        accuracy=accuracy,
        notes=(*notes, *_few(whole), *filter(None, [unread])),
    )


def subjects(
    bundle: Path, against: Sequence[Path | Subject], max_length: int, choice: Choice | None = None
) -> list[Subject]:
    """The bundle, its twin, and the baselines; what cannot be measured is refused before any worker starts."""
    _ = [module_for(path) for path in against if isinstance(path, Path)]
    names: list[str] = []
    for one in (bundle, *against):
        base = one.name if isinstance(one, Subject) else one.resolve().name
        names.append(base if base not in names else f"{base}#{len(names) + 1}")
    engine = engine_of(choice or Choice())
    found = [subject(bundle, name, max_length, engine) for name in (names[0], TWIN)]
    for one, name in zip(against, names[1:], strict=True):
        found.append(replace(one, name=name) if isinstance(one, Subject) else subject(one, name, max_length))
    return found


@dataclass(frozen=True)
class Started:
    """A loaded system: seconds until it was loaded, milliseconds of its first answer, and what it answers."""

    runner: Runner
    load_s: float
    first_ms: float
    task: dict[str, Any]


def start(stack: ExitStack, subject: Subject, threads: int, texts: Sequence[Text], say: Progress) -> Started:
    """Loads a system in a worker, which ends with `stack`."""
    say(f"loading {subject.name}")
    began = time.perf_counter()
    worker = stack.enter_context(Worker(subject, threads))
    reply = worker.ask("load")
    loaded = time.perf_counter() - began
    first = worker.ask("first", {"texts": texts})["ns"] / 1e6
    return Started(Runner(worker, reply["kind"]), loaded, first, reply["task"])


def refuse_others(started: Sequence[Started]) -> None:
    """`SettingsError` for a baseline that does not do what the bundle, the first, does."""
    for other in started[2:]:
        refuse_another_task(other.runner.worker.name, started[0].task, other.task)


def _result(started: Started) -> SystemResult:
    runner = started.runner
    return SystemResult(
        name=runner.worker.name,
        kind=runner.kind,
        calls=runner.calls,
        throughput_per_s=median(runner.walls),
        batch=runner.batch,
        load_s=started.load_s,
        first_ms=started.first_ms,
        peak_mb=runner.worker.ask("usage")["peak_mb"],
        size_mb=runner.worker.subject.size_mb,
        joules_per_text=runner.joules / runner.texts if runner.joules else None,
    )


def _check(texts: Sequence[Text], labels: Sequence[Any] | None, threads: int) -> None:
    if not texts:
        raise DataError("a benchmark needs at least one text")
    if labels is not None and len(labels) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(labels)} labels")
    if threads < 1:
        raise SettingsError(f"threads must be at least 1, not {threads}")


def _few(texts: Sequence[Text]) -> list[str]:
    different = len(set(texts))
    if different >= FEW_TEXTS:
        return []
    return [f"{different} different texts stand for no real traffic: give --data with {FEW_TEXTS} or more"]


def choose(texts: Sequence[Text], count: int) -> list[Text]:
    """A fixed random choice, so that a sorted file still gives its real distribution of lengths."""
    return random.Random(0).sample(list(texts), count)


def _tune(runners: Sequence[Runner], texts: list[Text], plan: Plan, say: Progress) -> None:
    for runner in (runners[0], *runners[2:]):
        say(f"tuning the batches of {runner.worker.name}")
        time.sleep(plan.pause)
        runner.batch = runner.worker.ask("tune", {"texts": texts})["batch"]
    runners[1].batch = runners[0].batch  # a twin in everything
    runners[1].worker.ask("use", {"batch": runners[1].batch})


def _accuracy(
    runners: Sequence[Runner],
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
    for runner in runners:
        name = runner.worker.name
        say(f"{' and '.join(gates)} of {name}")
        reply = runner.worker.ask("evaluate", {"texts": texts, "labels": labels})
        if "note" in reply:
            notes.append(f"{name}: {reply['note']}: not judged")
            points.append(None)
            continue
        points.append(round(sum(reply["points"][gate] for gate in gates) / len(gates), 3))
    baselines = {s.worker.name: p for s, p in zip(runners[1:], points[1:], strict=True)}
    return {"measure": " and ".join(gates), "bundle": points[0], "baselines": baselines}, notes


def _how(rounds: int, single: int, plan: Plan) -> str:
    looks = f" (over {len(plan.looks)} looks at them)" if len(plan.looks) > 1 else ""
    clock = "processor time, which other work does not lengthen" if plan.processor else "wall time"
    return (
        f"{rounds} interleaved rounds in alternating order, each system in its own process with the same "
        f"number of threads and tuned batches, text in to answer out; p50 over {single} single texts a round; "
        f"ratios are trimmed means of per-round ratios of {clock}, with a 95 % t interval{looks}; percentiles "
        "and texts/s are of wall time."
    )
