"""Systems that speak runtime/bench/protocol.py, in any environment: loaded, judged, and timed in turns with the first.

`attar bench` starts its baselines from folders; here a system is a command, and one that fails is left out of the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from attar.runtime.bench.paired import Ratio, summarize
from attar.runtime.errors import AttarError

ROOT = str(Path(__file__).resolve().parents[1])
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
TIMED, TUNED, SINGLE = 512, 256, 60
"""Texts of a measurement of throughput, of tuning, and those answered one by one."""
SECONDS = 0.25
"""A measurement of throughput takes at least this long."""
PAUSE = 0.1
"""Seconds before each measurement, in which idle threads of the others stop spinning."""


class Line:
    """A system in a process of its own, as a context manager; whatever goes wrong there is an `AttarError` here."""

    def __init__(self, command: Sequence[str], threads: int) -> None:
        fixed = dict.fromkeys(POOLS, str(threads)) | {"PYTHONPATH": ROOT, "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, env={**os.environ, **fixed},
            encoding="utf-8",
        )  # fmt: skip

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        self._process.wait()
        self._said.close()

    def ask(self, op: str, **parts: Any) -> dict[str, Any]:
        """Sends one request and waits for its reply."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"op": op, **parts}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._said.seek(0)
            words = self._said.read().decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise AttarError(f"died during {op!r} (exit {self._process.wait()}): {words[-1].strip()[:200]}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise AttarError(reply["error"])
        return reply


@dataclass
class System:
    """A loaded system and what was measured: one value a round in `p50` (ns) and `rates` (texts a second)."""

    name: str
    line: Line
    kind: str
    points: float
    batch: int = 0
    p50: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def faster(self, other: System) -> tuple[Ratio, Ratio]:
        """How many times faster this one is: for single texts, and in texts a second."""
        single = [b / a for a, b in zip(self.p50, other.p50, strict=True)]
        return summarize(single), summarize([a / b for a, b in zip(self.rates, other.rates, strict=True)])

    def to_json(self) -> dict[str, Any]:
        told = {"name": self.name, "kind": self.kind, "points": round(self.points, 4), "batch": self.batch}
        p50, rates = [round(ns / 1e6, 4) for ns in self.p50], [round(rate, 2) for rate in self.rates]
        return {**told, "p50_ms": p50, "texts_per_s": rates}


def loaded(name: str, line: Line, gate: str, texts: Sequence[str], labels: Sequence[str]) -> System:
    """A system that has answered the whole test split."""
    kind = line.ask("load")["kind"]
    reply = line.ask("evaluate", texts=texts, labels=labels)
    if "note" in reply:
        raise AttarError(reply["note"])
    return System(name, line, kind, float(reply["points"][gate]))


def chosen(texts: Sequence[str]) -> list[str]:
    """A fixed random choice of those to time, so that a sorted file still gives its real lengths."""
    return random.Random(0).sample(list(texts), min(len(texts), TIMED))


def measure(systems: Sequence[System], texts: Sequence[str], rounds: int, say: Callable[[str], None]) -> dict[str, str]:
    """Tunes and times all; those that failed, by name, with the reason.

    A B C, C B A, B C A, A C B, ...: none always goes first, and none always follows the same.
    """
    failed: dict[str, str] = {}

    def asked(system: System, call: Callable[[System], None]) -> None:
        if system.name not in failed:
            time.sleep(PAUSE)
            try:
                call(system)
            except AttarError as error:
                if system is systems[0]:
                    raise
                failed[system.name] = str(error)

    for system in systems:
        say(f"tuning the batches of {system.name}")
        asked(system, lambda one: tune(one, texts[:TUNED]))
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        shift = (number // 2) % len(systems)
        order = [*systems[shift:], *systems[:shift]][:: -1 if number % 2 else 1]
        for system in order:
            asked(system, lambda one: latency(one, texts[:SINGLE]))
        for system in order:
            asked(system, lambda one: throughput(one, texts))
    return failed


def tune(system: System, texts: Sequence[str]) -> None:
    system.batch = system.line.ask("tune", texts=texts)["batch"]


def latency(system: System, texts: Sequence[str]) -> None:
    system.p50.append(median(system.line.ask("latency", texts=texts)["ns"]))


def throughput(system: System, texts: Sequence[str]) -> None:
    reply = system.line.ask("throughput", texts=texts, seconds=SECONDS)
    system.rates.append(reply["texts"] / reply["seconds"])
