"""The worker's side of the benchmark: JSON lines on stdin and stdout, one reply to each request.

{"op": "load"}                      -> {"kind", "labels"}
{"op": "tune", "texts"}             -> {"batch"}            the fastest setting, kept from then on
{"op": "latency", "texts"}          -> {"ns": [...]}        wall time of each single call
{"op": "throughput", "texts"}       -> {"texts", "seconds"} the list, repeated for MIN_SECONDS at least
{"op": "predict", "texts"}          -> {"labels": [...]}
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

from attar.runtime.errors import AttarError

MIN_SECONDS = 0.25
"""A throughput measurement takes at least this long, so that a short list is not all noise."""
WARM_CALLS = 3
"""Untimed calls before each measurement: the other system has just had the caches and the cores."""


class System(Protocol):
    """What is measured: text in, label out, tokenizer and softmax included."""

    kind: str
    labels: list[str]
    settings: tuple[int, ...]
    """The batch settings that tuning tries."""

    def use(self, setting: int) -> None:
        """Batches by this setting from now on."""
        ...

    def one(self, text: str) -> str:
        """The label of one text, as a single request would be served."""
        ...

    def many(self, texts: Sequence[str]) -> list[str]:
        """The labels of all texts, in order."""
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
                reply: dict[str, Any] = {"kind": system.kind, "labels": system.labels}
            elif request["op"] == "stop" or system is None:
                reply = {} if request["op"] == "stop" else {"error": "the first request must be load"}
            else:
                reply = _OPS[request["op"]](system, request["texts"])
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


def _seconds(system: System, texts: Sequence[str]) -> float:
    start = time.perf_counter_ns()
    system.many(texts)
    return (time.perf_counter_ns() - start) / 1e9


def tune(system: System, texts: Sequence[str]) -> dict[str, Any]:
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


def latency(system: System, texts: Sequence[str]) -> dict[str, Any]:
    """Nanoseconds of each text by itself."""
    for text in texts[:WARM_CALLS]:
        system.one(text)
    spent = []
    for text in texts:
        start = time.perf_counter_ns()
        system.one(text)
        spent.append(time.perf_counter_ns() - start)
    return {"ns": spent}


def throughput(system: System, texts: Sequence[str]) -> dict[str, Any]:
    """Texts done and the seconds they took."""
    system.many(texts[:WARM_CALLS])
    passes, spent = 0, 0.0
    while passes == 0 or spent < MIN_SECONDS:
        spent += _seconds(system, texts)
        passes += 1
    return {"texts": passes * len(texts), "seconds": spent}


def predict(system: System, texts: Sequence[str]) -> dict[str, Any]:
    """The label of every text, in order."""
    return {"labels": system.many(texts)}


_OPS: dict[str, Callable[[System, Sequence[str]], dict[str, Any]]] = {
    "tune": tune,
    "latency": latency,
    "throughput": throughput,
    "predict": predict,
}
