"""What a benchmark may conclude: trimmed intervals of paired ratios, and whether the machine lets it be judged.

A difference is found where the interval of a ratio lies beyond 1 by more than `TOLERANCE`. The certificate asks the
same of a system and itself, in the same rounds: a machine on which these two differ, or on which their interval is
wider than `WIDE`, is too noisy, and no figure of that run should be quoted. `benchmarks/certificate.py` counts how
often both conclusions are right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from attar.runtime.bench.paired import Ratio, t95
from attar.runtime.errors import SettingsError

TRIMMED = 0.2
"""The share of rounds at either end that does not count: what other work disturbs is rarely more."""
TOLERANCE = 0.01
"""A difference of at most this share is called none: where a process happens to lie in memory makes as much."""
WIDE = 0.025
"""Half of the width from which on the interval of a system against itself is too wide: 5 % could be missed."""
FEWEST = 5
"""Rounds below which a machine is not judged."""
LOOKS = (9, 18, 36, 72)
"""Numbers of rounds after which a run without a fixed number asks whether it is settled."""


def trimmed(ratios: Sequence[float], confidence: float = 0.95) -> Ratio:
    """Ratios (N,), one a round, to the trimmed mean of their logarithms with its t interval.

    Tukey and McLaughlin (1963), "Less vulnerable confidence and significance procedures for location based on a single
    sample", Sankhya A 25: the variance is that of the values drawn in to the outermost that count. Of fewer than five
    rounds none is left out, and the interval is Student's own.
    """
    count = len(ratios)
    if count < 2:
        raise SettingsError("an interval needs at least 2 rounds")
    logs = sorted(math.log(r) for r in ratios)
    cut = int(TRIMMED * count)
    inner = logs[cut : count - cut]
    mean = sum(inner) / len(inner)
    drawn_in = [inner[0]] * cut + inner + [inner[-1]] * cut
    middle = sum(drawn_in) / count
    variance = sum((x - middle) ** 2 for x in drawn_in) / (count - 1)
    margin = t_point(len(inner) - 1, confidence) * math.sqrt(variance * count) / len(inner)
    return Ratio(math.exp(mean), math.exp(mean - margin), math.exp(mean + margin), count)


def t_point(freedom: int, confidence: float) -> float:
    """The two-sided point of Student's t: a table for 95 %, else Fisher and Cornish's expansion (1960).

    From 5 degrees of freedom on the expansion is good to 0.5 % up to a confidence of 99.5 %.
    """
    if confidence == 0.95:
        return t95(freedom)
    if freedom < 5:
        raise SettingsError(f"an interval of {100 * confidence:g} % needs 8 rounds at least")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, 1))


def verdict(ratio: Ratio) -> str:
    """What a ratio above 1 (faster) says: `faster`, `slower`, or `no difference`."""
    if ratio.low > 1 + TOLERANCE:
        return "faster"
    return "slower" if ratio.high < 1 / (1 + TOLERANCE) else "no difference"


def wide(ratio: Ratio) -> bool:
    """Whether an interval is too wide to judge by."""
    return math.log(ratio.high / ratio.low) / 2 > WIDE


def settled(ratio: Ratio) -> bool:
    """Whether no more rounds are needed: a difference is found, or the interval is narrow enough to deny it."""
    return verdict(ratio) != "no difference" or not wide(ratio)


@dataclass(frozen=True)
class Certificate:
    """The bundle against itself, by metric: whether differences of 5 % can be told on this machine, now.

    `verdict`: `quiet`, `noisy`, or `not judged` where the rounds are too few; `why` says it in words.
    """

    ratios: dict[str, Ratio]
    verdict: str
    why: str

    @property
    def noisy(self) -> bool:
        return self.verdict == "noisy"

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "why": self.why, **{n: r.to_json() for n, r in self.ratios.items()}}


def certify(ratios: dict[str, Ratio]) -> Certificate:
    """Judges the machine by the ratios of a system to itself."""
    if any(r.rounds < FEWEST for r in ratios.values()):
        return Certificate(ratios, "not judged", f"whether the machine is quiet takes {FEWEST} rounds to judge")
    for name, ratio in ratios.items():
        apart = f"the bundle against itself, {name}: {ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        if verdict(ratio) != "no difference":
            return Certificate(ratios, "noisy", f"{apart} is not 1")
        if wide(ratio):
            return Certificate(ratios, "noisy", f"{apart} is too wide to tell 5 %")
    return Certificate(ratios, "quiet", "the bundle against itself: no difference")
