"""The worker's side of the benchmark: JSON lines on stdin and stdout, one reply to each request.

{"op": "load"}                      -> {"kind"}
{"op": "tune", "texts"}             -> {"batch"}            the fastest setting, kept from then on
{"op": "latency", "texts"}          -> {"ns": [...]}        wall time of each single call
{"op": "throughput", "texts"}       -> {"texts", "seconds"} the list, repeated for MIN_SECONDS at least
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
from attar.runtime.errors import AttarError, DataError
from attar.runtime.tasks.base import Task
from attar.runtime.tokenizer import Text

MIN_SECONDS = 0.25
"""A throughput measurement takes at least this long, so that a short list is not all noise."""
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
                reply: dict[str, Any] = {"kind": system.kind}
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


def latency(system: System, texts: Sequence[Text]) -> dict[str, Any]:
    """Nanoseconds of each text by itself."""
    for text in texts[:WARM_CALLS]:
        system.many([text])
    spent = []
    for text in texts:
        start = time.perf_counter_ns()
        system.many([text])
        spent.append(time.perf_counter_ns() - start)
    return {"ns": spent}


def throughput(system: System, texts: Sequence[Text]) -> dict[str, Any]:
    """Texts done and the seconds they took."""
    system.many(texts[:WARM_CALLS])
    passes, spent = 0, 0.0
    while passes == 0 or spent < MIN_SECONDS:
        spent += _seconds(system, texts)
        passes += 1
    return {"texts": passes * len(texts), "seconds": spent}


def evaluate(system: System, texts: Sequence[Text], labels: Sequence[Any]) -> dict[str, Any]:
    """Every measure of the task in points; a note where the system has other labels than the data."""
    try:
        known = system.task.named(labels, texts)
    except DataError as error:
        return {"note": str(error)}
    found = system.task.statistics(system.many, texts, known)
    return {"points": {name: metrics.points(name, values) for name, values in found.items()}}


def _answer(system: System, request: dict[str, Any]) -> dict[str, Any]:
    texts = frozen(request["texts"])
    if request["op"] == "evaluate":
        return evaluate(system, texts, frozen(request["labels"]))
    return _OPS[request["op"]](system, texts)


def frozen(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


_OPS: dict[str, Callable[[System, Sequence[Text]], dict[str, Any]]] = {
    "tune": tune,
    "latency": latency,
    "throughput": throughput,
}
