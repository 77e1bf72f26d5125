"""Counters, gauges and histograms in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
HISTOGRAMS = {
    "request_seconds": ("Seconds from the headers of a request to its reply, by route.", SECONDS),
    "queue_seconds": ("Seconds that a request waited to be computed.", SECONDS),
    "tokenize_seconds": ("Seconds to tokenize a batch.", SECONDS),
    "infer_seconds": ("Seconds from the tokens of a batch to its answers.", SECONDS),
    "batch_texts": ("Texts of a batch.", COUNTS),
    "batch_tokens": ("Tokens of a batch, padding left out.", COUNTS),
}
COUNTERS = {
    "requests_total": "Requests by route and status code.",
    "rejections_total": "Requests that were refused, by reason.",
    "reloads_total": "Bundles that were loaded, refused or removed while serving, by model.",
}
GAUGES = {
    "active_requests": "Requests for answers that are being worked on.",
    "queue_requests": "Requests that wait.",
    "queue_tokens": "Tokens that wait, as estimated.",
}

Labels = tuple[tuple[str, str], ...]
Snapshot = dict[str, list[Any]]
"""Rows that JSON can hold: name, labels, then a value or, of a histogram, its counts and its sum."""


class Meter:
    """What is counted; threads share it. `labels` are those of every row."""

    def __init__(self, labels: Labels = ()) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], int] = {}
        self._histograms: dict[tuple[str, Labels], tuple[list[int], list[float]]] = {}
        self._gauges: dict[tuple[str, Labels], Callable[[], float]] = {}

    def count(self, name: str, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1

    def observe(self, name: str, value: float, labels: Labels = ()) -> None:
        """Puts a value into a histogram."""
        bounds = HISTOGRAMS[name][1]
        with self._lock:
            found = self._histograms.get((name, labels))
            if found is None:
                found = self._histograms[name, labels] = ([0] * (len(bounds) + 1), [0.0])
            found[0][bisect_left(bounds, value)] += 1
            found[1][0] += value

    def gauge(self, name: str, labels: Labels, read: Callable[[], float]) -> None:
        """Asks for a value whenever metrics are read."""
        self._gauges[name, labels] = read

    def drop_gauge(self, name: str, labels: Labels) -> None:
        """Asks for it no more."""
        self._gauges.pop((name, labels), None)

    def observer(self, model: str) -> Callable[[str, float], None]:
        """What a batcher calls, for the model of this name."""
        labels = (("model", model),)
        return lambda name, value: self.observe(name, value, labels)

    def snapshot(self) -> Snapshot:
        """Everything as it is now."""
        own = self._labels
        with self._lock:
            counts = [[name, labels + own, value] for (name, labels), value in sorted(self._counts.items())]
            histograms = [
                [name, labels + own, list(counts), total[0]]
                for (name, labels), (counts, total) in sorted(self._histograms.items())
            ]
            gauges = list(self._gauges.items())
        values = [[name, labels + own, read()] for (name, labels), read in gauges]
        return {"counters": counts, "gauges": values, "histograms": histograms}

    def text(self) -> str:
        """Everything as Prometheus reads it."""
        return exposition([self.snapshot()])


def exposition(snapshots: Sequence[Snapshot]) -> str:
    """Snapshots of meters with different labels as Prometheus reads them, each name once."""
    lines: list[str] = []
    for kind, families in (("counter", COUNTERS), ("gauge", GAUGES)):
        for name, words in families.items():
            rows = (_line(n, labels, value) for s in snapshots for n, labels, value in s[f"{kind}s"] if n == name)
            lines += _family(name, kind, words, rows)
    for name, (words, bounds) in HISTOGRAMS.items():
        found = [row for s in snapshots for row in s["histograms"] if row[0] == name]
        rows = (line for _, labels, counts, total in found for line in _histogram(name, labels, bounds, counts, total))
        lines += _family(name, "histogram", words, rows)
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, words: str, rows: Iterable[str]) -> Iterator[str]:
    yield f"# HELP attar_{name} {words}"
    yield f"# TYPE attar_{name} {kind}"
    yield from rows


def _histogram(
    name: str, labels: Sequence[Sequence[str]], bounds: tuple[float, ...], counts: list[int], total: float
) -> Iterator[str]:
    seen = 0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        seen += count
        yield _line(f"{name}_bucket", (*labels, ("le", bound)), seen)
    yield _line(f"{name}_sum", labels, total)
    yield _line(f"{name}_count", labels, seen)


def _line(name: str, labels: Sequence[Sequence[str]], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"attar_{name}{{{shown}}} {value}" if shown else f"attar_{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
