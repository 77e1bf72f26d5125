"""What a benchmark found: times in milliseconds, throughput in texts a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attar.runtime.bench.paired import Ratio


@dataclass(frozen=True)
class SystemResult:
    """One system over all rounds; `batch` is what tuning kept: tokens for a bundle, texts for PyTorch."""

    name: str
    kind: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    batch: int

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "p50_ms": round(self.p50_ms, 4),
            "p90_ms": round(self.p90_ms, 4),
            "p99_ms": round(self.p99_ms, 4),
            "throughput_per_s": round(self.throughput_per_s, 2),
            "batch": self.batch,
        }


@dataclass(frozen=True)
class Speedup:
    """How much faster the bundle is than one baseline, by one metric (`p50` or `throughput`)."""

    name: str
    metric: str
    value: Ratio

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "metric": self.metric, **self.value.to_json(), "rounds": self.value.rounds}


@dataclass(frozen=True)
class BenchResult:
    """The bundle is the first of `systems`; `accuracy` is in points, None where there was nothing to judge by.

    `accuracy` holds `measure` (what the task's gate judges), `bundle` and `baselines` by name.
    """

    systems: tuple[SystemResult, ...]
    ratios: tuple[Speedup, ...]
    machine: Mapping[str, Any]
    threads: int
    texts: int
    mean_tokens: float
    how: str
    accuracy: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        first = self.systems[0].to_json()
        speedups = {s.metric: s.value.to_json() for s in reversed(self.ratios)}  # the first baseline wins
        return {
            **{key: first[key] for key in ("p50_ms", "p90_ms", "p99_ms", "throughput_per_s")},
            "speedup_p50": speedups.get("p50"),
            "speedup_throughput": speedups.get("throughput"),
            "systems": [s.to_json() for s in self.systems],
            "ratios": [s.to_json() for s in self.ratios],
            "accuracy": None if self.accuracy is None else dict(self.accuracy),
            "threads": self.threads,
            "texts": self.texts,
            "mean_tokens": round(self.mean_tokens, 1),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "how": self.how,
        }

    def table(self) -> str:
        """For people: the systems, then the ratios with their intervals, then accuracy and notes."""
        width = max(len(s.name) for s in self.systems)
        lines = [f"{'system':{width}}  p50 ms   p90 ms   p99 ms   texts/s    batch  kind"]
        lines += [
            f"{s.name:{width}}  {s.p50_ms:<7.2f}  {s.p90_ms:<7.2f}  {s.p99_ms:<7.2f}  "
            f"{s.throughput_per_s:<9.1f}  {s.batch:<5}  {s.kind}"
            for s in self.systems
        ]
        lines += [
            f"{s.value.ratio:.2f}x the speed of {s.name} by {s.metric} "
            f"(95 % interval {s.value.low:.2f} to {s.value.high:.2f}, {s.value.rounds} rounds)"
            for s in self.ratios
        ]
        if self.accuracy is not None:
            lines.append(
                f"{self.accuracy['measure']}: bundle {_points(self.accuracy['bundle'])}"
                + "".join(f", {name} {_points(value)}" for name, value in self.accuracy["baselines"].items())
            )
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(
            [
                *lines,
                f"{self.threads} threads, {self.texts} texts of {self.mean_tokens:.1f} tokens. {self.how}",
            ]
        )


def _points(value: float | None) -> str:
    return "not judged" if value is None else f"{value:.2f}"
