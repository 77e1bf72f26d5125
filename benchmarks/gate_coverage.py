"""How often the gate's bootstrap bound lies below the true difference; at 95 % confidence it should 95 times in 100.

python benchmarks/gate_coverage.py [experiments, 1000]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress import bootstrap
from attar.runtime.metrics import points

Pair = tuple[NDArray[Any], NDArray[Any]]
CONFIDENCE = 0.95


def answer_f1(n: int, random: np.random.Generator, differing: float, losses_only: bool = False) -> Pair:
    """F1 of answers to questions: most exact, some wrong, some partly right; a share `differing` is drawn anew."""

    def draw(exact: float) -> NDArray[Any]:
        partial = np.where(random.random(n) < 0.5, 0.0, random.random(n))
        return np.where(random.random(n) < exact, 1.0, partial)

    teacher, other = draw(0.75), np.zeros(n) if losses_only else draw(0.70)
    return teacher, np.where(random.random(n) < differing, other, teacher)


def entity_f1(n: int, random: np.random.Generator, differing: float) -> Pair:
    """Entities of sentences that differ in difficulty; the student loses some, finds some, invents some."""
    actual = random.poisson(1.6, n) * (random.random(n) < 0.8)
    hard = random.beta(1, 6, n)
    right, wrong = random.binomial(actual, 1 - hard), random.binomial(2, 0.4 * hard)
    own = right - random.binomial(right, differing) + random.binomial(actual - right, 2 * differing)
    invented = random.binomial(wrong, 1 - differing) + random.binomial(2, 0.5 * hard * differing)
    return np.stack([right, right + wrong, actual], 1), np.stack([own, own + invented, actual], 1)


def similarity(n: int, random: np.random.Generator, differing: float) -> Pair:
    """Scores of sentence pairs on a grid of quarters, teacher's and student's with noise."""
    actual = np.round(20 * random.random(n)) / 4
    teacher = actual + random.normal(0, 0.8, n)
    student = teacher + random.normal(0, 2 * differing, n)
    return np.stack([teacher, actual], 1), np.stack([student, actual], 1)


def bounds(measure: str, teacher: NDArray[Any], student: NDArray[Any]) -> tuple[float, float, float]:
    """Percentile, BCa (Efron & Tibshirani 1993, section 14.3), and what the gate makes of the percentile."""
    before, after = bootstrap.resampled(measure, teacher), bootstrap.resampled(measure, student)
    drawn = np.concatenate([after(w) - before(w) for w in bootstrap.draws(len(teacher))])
    seen = points(measure, student) - points(measure, teacher)
    left_out = 1 - np.eye(len(teacher))
    influence = after(left_out) - before(left_out)
    influence = influence.mean() - influence
    spread = (influence @ influence) ** 1.5
    skew = (influence**3).sum() / (6 * spread) if spread else 0.0
    normal = NormalDist()
    lower = (drawn < seen).mean() + (drawn == seen).mean() / 2
    bias = normal.inv_cdf(min(max(float(lower), 1e-4), 1 - 1e-4))
    z = bias + normal.inv_cdf(1 - CONFIDENCE)
    percentile, bca = np.quantile(drawn, [1 - CONFIDENCE, normal.cdf(bias + z / (1 - skew * z))])
    return percentile, bca, seen - bootstrap.widened(max(0.0, seen - percentile), len(teacher), CONFIDENCE)


SCENES: list[tuple[str, str, Callable[[int, np.random.Generator], Pair]]] = [
    ("F1, 2 % lost", "F1", lambda n, r: answer_f1(n, r, 0.02, losses_only=True)),
    ("F1, 10 % differ", "F1", lambda n, r: answer_f1(n, r, 0.10)),
    ("F1, 30 % differ", "F1", lambda n, r: answer_f1(n, r, 0.30)),
    ("entity F1, 2 %", "entity F1", lambda n, r: entity_f1(n, r, 0.02)),
    ("entity F1, 10 %", "entity F1", lambda n, r: entity_f1(n, r, 0.10)),
    ("Spearman, 10 %", "Spearman", lambda n, r: similarity(n, r, 0.10)),
    ("Spearman, 30 %", "Spearman", lambda n, r: similarity(n, r, 0.30)),
]


def main() -> None:
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"covered, in %, of {experiments} experiments; one standard error is {21.8 / experiments**0.5:.1f}")
    print(f"{'':16}{'true':>7}{'n':>6}{'percentile':>12}{'BCa':>7}{'gate':>7}")
    for title, measure, draw in SCENES:
        large = [draw(400_000, np.random.default_rng(seed)) for seed in range(5)]
        true = float(np.mean([points(measure, s) - points(measure, t) for t, s in large]))
        for n in (50, 200, 1000):
            random, below = np.random.default_rng(n), np.zeros(3)
            for _ in range(experiments):
                below += np.array(bounds(measure, *draw(n, random))) <= true
            percentile, bca, gate = 100 * below / experiments
            print(f"{title:16}{true:7.2f}{n:6}{percentile:12.1f}{bca:7.1f}{gate:7.1f}", flush=True)


if __name__ == "__main__":
    main()
