"""Paired, interleaved timing and the statistics of ratios. Times in seconds, ratios without a unit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.runtime.errors import SettingsError

Call = Callable[[], object]
Clock = Callable[[], int]

# Two-sided 95 % points of Student's t for 1 to 30 degrees of freedom.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of per-round ratios with its 95 % interval."""

    ratio: float
    low: float
    high: float
    rounds: int

    def to_json(self) -> dict[str, float]:
        return {"ratio": round(self.ratio, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


def t95(freedom: int) -> float:
    """The two-sided 95 % point of Student's t; beyond the table its expansion, good to 0.003."""
    if freedom < 1:
        raise SettingsError("an interval needs at least 2 rounds")
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.95996 + 2.3724 / freedom


def summarize(ratios: Sequence[float]) -> Ratio:
    """Ratios (N,), one a round, to their geometric mean; t interval on the logarithms, N - 1 degrees."""
    count = len(ratios)
    margin_t = t95(count - 1)
    logs = [math.log(r) for r in ratios]
    mean = sum(logs) / count
    variance = sum((x - mean) ** 2 for x in logs) / (count - 1)
    margin = margin_t * math.sqrt(variance / count)
    return Ratio(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin), count)


def compare(
    a: Call, b: Call, rounds: int = 9, *, inner: int = 1, warmup: int = 2, clock: Clock = time.perf_counter_ns
) -> Ratio:
    """Time of `a` over time of `b`, in this process: above 1 means that `a` is slower.

    Args:
        rounds: paired measurements; each gives one ratio.
        inner: calls of each side in one round, taken in turns.
        warmup: calls of each side before anything is measured.
        clock: nanoseconds; that of the thread on a machine that does other work, if one thread does it all.
    """
    return compare_each([(a, b)] * inner, rounds, warmup=warmup, clock=clock)


def compare_each(
    pairs: Sequence[tuple[Call, Call]], rounds: int = 9, *, warmup: int = 2, clock: Clock = time.perf_counter_ns
) -> Ratio:
    """As `compare`, for several pairs: a round sums the times of each side over all pairs.

    The two sides of a pair run back to back, so that a slow moment of the machine hits both; who goes first
    alternates with the pair and with the round, so that neither profits from the caches the other has filled.
    """
    if rounds < 2:
        raise SettingsError(f"rounds must be at least 2, not {rounds}: an interval needs them")
    for a, b in list(pairs) * warmup:
        a()
        b()
    ratios = []
    for number in range(rounds):
        spent_a = spent_b = 0
        for i, (a, b) in enumerate(pairs):
            if (number + i) % 2:
                spent_b += _time(b, clock)
                spent_a += _time(a, clock)
            else:
                spent_a += _time(a, clock)
                spent_b += _time(b, clock)
        ratios.append(max(spent_a, 1) / max(spent_b, 1))
    return summarize(ratios)


def _time(call: Call, clock: Clock) -> int:
    """Nanoseconds of one call."""
    start = clock()
    call()
    return clock() - start
