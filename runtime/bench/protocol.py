"""The worker's side of the benchmark: JSON lines on stdin and stdout, one reply to each request.

{"op": "load"}                      -> {"kind", "task"}     `task` as `answers_of` says
{"op": "first", "texts"}            -> {"ns"}               wall time of the first call, of one text
{"op": "tune", "texts"}             -> {"batch"}            the fastest setting, kept from then on
{"op": "use", "batch"}              -> {}                   that setting, from now on
{"op": "fix", "rows", "tokens"}     -> {}                   batches of this many rows of this many tokens
{"op": "latency", "texts"}          -> {"ns": [...], "busy": [...]} wall and processor time of each single call
{"op": "throughput", "texts", "seconds"} -> {"texts", "seconds", "busy"} the list, repeated for that long at least
{"op": "usage"}                     -> {"peak_mb"}          None where the system does not tell
{"op": "evaluate", "texts", "labels"} -> {"points": {measure: points}}, or {"note"} where its labels are others
{"op": "stop"}                      -> {}
any request that fails              -> {"error"}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

from attar.runtime import metrics
from attar.runtime.bench.usage import peak_mb
from attar.runtime.errors import AttarError, DataError
from attar.runtime.tasks.base import Task
from attar.runtime.tokenizer import Text

WARM_CALLS = 3
"""Untimed calls before each measurement: the other system has just had the caches and the cores."""


class System(Protocol):
    """What is measured: text in, typed answer out, tokenizer and post-processing included."""

    kind: str
    task: Task
    settings: tuple[int, ...]
    """The batch settings that tuning tries."""

    def use(self, setting: int) -> None:
        """Batches by this setting from now on."""
        ...

    def fix(self, rows: int, tokens: int) -> None:
        """Batches of this many rows, each of this many tokens, from now on."""
        ...

    def many(self, texts: Sequence[Text]) -> list[Any]:
        """The answers to all texts, in order; a single text is served as a request would be."""
        ...


def serve(build: Callable[[], System]) -> int:
    """Answers requests until `stop` or the end of stdin; `build` runs at `load`, its prints diverted."""
    channel = _private_stdout()
    system: System | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["op"] == "load":
                system = build()
                reply: dict[str, Any] = {"kind": system.kind, "task": answers_of(system.task)}
            elif request["op"] == "stop" or system is None:
                reply = {} if request["op"] == "stop" else {"error": "the first request must be load"}
            else:
                reply = _answer(system, request)
        except AttarError as error:
            reply = {"error": str(error)}
        channel.write(json.dumps(reply) + "\n")
        channel.flush()
        if request["op"] == "stop":
            break
    return 0


def _private_stdout() -> TextIO:
    """A stream to the real stdout; descriptor 1 then leads to stderr, so a library's print does no harm."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return channel


def _seconds(system: System, texts: Sequence[Text]) -> float:
    start = time.perf_counter_ns()
    system.many(texts)
    return (time.perf_counter_ns() - start) / 1e9


def tune(system: System, texts: Sequence[Text]) -> dict[str, Any]:
    """Tries every batch setting, the two best once more, and keeps the fastest."""
    spent = {}
    for setting in system.settings:
        system.use(setting)
        system.many(texts[:WARM_CALLS])
        spent[setting] = _seconds(system, texts)
    for setting in sorted(spent, key=spent.__getitem__)[:2]:
        system.use(setting)
        spent[setting] = min(spent[setting], _seconds(system, texts))
    best = min(spent, key=spent.__getitem__)
    system.use(best)
    return {"batch": best}


def first(system: System, texts: Sequence[Text]) -> dict[str, Any]:
    """Nanoseconds of the first call."""
    start = time.perf_counter_ns()
    system.many(texts[:1])
    return {"ns": time.perf_counter_ns() - start}


def latency(system: System, texts: Sequence[Text]) -> dict[str, Any]:
    """Nanoseconds of each text by itself, and of the processor's time that it took, all threads together."""
    for text in texts[:WARM_CALLS]:
        system.many([text])
    spent, busy = [], []
    for text in texts:
        before, start = time.process_time_ns(), time.perf_counter_ns()
        system.many([text])
        spent.append(time.perf_counter_ns() - start)
        busy.append(time.process_time_ns() - before)
    return {"ns": spent, "busy": busy}


def throughput(system: System, texts: Sequence[Text], seconds: float) -> dict[str, Any]:
    """Texts done, the seconds they took, and those of the processor."""
    system.many(texts[:WARM_CALLS])
    passes, spent, before = 0, 0.0, time.process_time()
    while passes == 0 or spent < seconds:
        spent += _seconds(system, texts)
        passes += 1
    return {"texts": passes * len(texts), "seconds": spent, "busy": time.process_time() - before}


def evaluate(system: System, texts: Sequence[Text], labels: Sequence[Any]) -> dict[str, Any]:
    """Every measure of the task in points; a note where the system has other labels than the data."""
    try:
        known = system.task.named(labels, texts)
    except DataError as error:
        return {"note": str(error)}
    found = system.task.statistics(system.many, texts, known)
    return {"points": {name: metrics.points(name, values) for name, values in found.items()}}


def answers_of(task: Task) -> dict[str, Any]:
    """What must agree for two systems to do the same: the kind, the outputs of each head, and the labels' names.

    An embedding may have any number of dimensions.
    """
    heads = [[None if h.objective == "vector" else h.outputs, h.objective] for h in task.heads]
    record = task.to_json()
    return {"kind": task.kind, "heads": heads, "labels": record.get("labels", record.get("tags"))}


def _answer(system: System, request: dict[str, Any]) -> dict[str, Any]:
    op = request["op"]
    if op == "usage":
        return {"peak_mb": peak_mb()}
    if op == "use":
        system.use(request["batch"])
        return {}
    if op == "fix":
        system.fix(request["rows"], request["tokens"])
        return {}
    texts = frozen(request["texts"])
    if op == "evaluate":
        return evaluate(system, texts, frozen(request["labels"]))
    if op == "throughput":
        return throughput(system, texts, request["seconds"])
    return _OPS[op](system, texts)


def frozen(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


_OPS: dict[str, Callable[[System, Sequence[Text]], dict[str, Any]]] = {
    "first": first,
    "tune": tune,
    "latency": latency,
}
