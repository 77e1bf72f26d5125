"""What a benchmark found: times in milliseconds, throughput in texts a second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attar.runtime.bench.decide import Certificate, verdict
from attar.runtime.bench.histogram import QUANTILES, Histogram
from attar.runtime.bench.paired import Ratio

NOISY = "NOISY, not to be quoted"


@dataclass(frozen=True)
class SystemResult:
    """One system over all rounds; `batch` is what tuning kept: tokens for a bundle, texts for PyTorch.

    `load_s`: from the start of its process until it is loaded; `first_ms`: its first answer after that; `peak_mb`: the
    most memory its process has held. None is what could not be read.
    """

    name: str
    kind: str
    calls: Histogram
    throughput_per_s: float
    batch: int
    load_s: float
    first_ms: float
    peak_mb: float | None = None
    size_mb: float | None = None
    joules_per_text: float | None = None

    def ms(self, quantile: str) -> float:
        """A percentile of single texts: p50, p90, p99 or p999."""
        return self.calls.quantile(QUANTILES[quantile]) / 1e6

    def to_json(self) -> dict[str, Any]:
        told = self.calls.told(QUANTILES["p999"])
        return {
            "name": self.name,
            "kind": self.kind,
            **{f"{name}_ms": round(self.ms(name), 4) for name in ("p50", "p90", "p99")},
            "p999_ms": round(self.ms("p999"), 4) if told else None,
            "max_ms": round(self.calls.largest / 1e6, 4),
            "calls": self.calls.count,
            "throughput_per_s": round(self.throughput_per_s, 2),
            "batch": self.batch,
            "load_s": round(self.load_s, 3),
            "first_ms": round(self.first_ms, 3),
            "peak_mb": _rounded(self.peak_mb, 1),
            "size_mb": _rounded(self.size_mb, 3),
            "joules_per_text": _rounded(self.joules_per_text, 6),
        }

    def row(self) -> list[str]:
        """Its figures as they stand in the table."""
        tail = self.ms("p999") if self.calls.told(QUANTILES["p999"]) else None
        return [
            self.name,
            *(f"{self.ms(name):.2f}" for name in ("p50", "p90", "p99")),
            _shown(tail, 2),
            f"{self.calls.largest / 1e6:.2f}",
            f"{self.calls.count}",
            f"{self.throughput_per_s:.1f}",
            f"{self.batch}",
            f"{self.load_s:.2f}",
            f"{self.first_ms:.1f}",
            _shown(self.peak_mb, 0),
            _shown(self.size_mb, 1),
            self.kind,
        ]


HEADINGS = (
    *("system", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "calls"),
    *("texts/s", "batch", "load s", "first ms", "peak MB", "size MB", "kind"),
)


@dataclass(frozen=True)
class Speedup:
    """How much faster the bundle is than one baseline, by one metric (`p50` or `throughput`)."""

    name: str
    metric: str
    value: Ratio

    def to_json(self) -> dict[str, Any]:
        rest = {"rounds": self.value.rounds, "verdict": verdict(self.value)}
        return {"name": self.name, "metric": self.metric, **self.value.to_json(), **rest}


@dataclass(frozen=True)
class BenchResult:
    """The bundle is the first of `systems`; `accuracy` is in points, None where there was nothing to judge by.

    `certificate` says whether the machine was quiet enough for any of it. `accuracy` holds `measure` (what the task's
    gate judges), `bundle` and `baselines` by name.
    """

    systems: tuple[SystemResult, ...]
    ratios: tuple[Speedup, ...]
    certificate: Certificate
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
            "certificate": self.certificate.to_json(),
            "accuracy": None if self.accuracy is None else dict(self.accuracy),
            "threads": self.threads,
            "texts": self.texts,
            "mean_tokens": round(self.mean_tokens, 1),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            "how": self.how,
        }

    @property
    def noisy(self) -> bool:
        return self.certificate.noisy

    def points(self) -> list[float | None]:
        """The accuracy of each system, in their order."""
        if self.accuracy is None:
            return [None] * len(self.systems)
        baselines = self.accuracy["baselines"]
        return [self.accuracy["bundle"], *(baselines[s.name] for s in self.systems[1:])]

    def table(self) -> str:
        """For people: the systems, then the ratios with their intervals, then accuracy and notes."""
        lines = aligned([list(HEADINGS), *(s.row() for s in self.systems)])
        lines += [self.said(s) for s in self.ratios]
        lines.append(f"machine {self.certificate.verdict}: {self.certificate.why}")
        lines += [f"{s.joules_per_text:.4f} J a text: {s.name}" for s in self.systems if s.joules_per_text is not None]
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

    def said(self, speedup: Speedup) -> str:
        """A ratio in words, with what the same rounds made of the bundle against itself."""
        value, same = speedup.value, self.certificate.ratios[speedup.metric]
        mark = f" {NOISY}" if self.certificate.noisy else ""
        return (
            f"{value.ratio:.2f}x the speed of {speedup.name} by {speedup.metric} "
            f"(95 % interval {value.low:.2f} to {value.high:.2f}, {value.rounds} rounds; {verdict(value)}; "
            f"against itself {same.low:.3f} to {same.high:.3f}){mark}"
        )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rounded(value: float | None, decimals: int) -> float | None:
    return None if value is None else round(value, decimals)


def _shown(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _points(value: float | None) -> str:
    return "not judged" if value is None else f"{value:.2f}"
