"""The paired bootstrap: a lower bound for the difference of two models in measures that are not shares.

Examples are drawn again and again with replacement, the same ones for both models, and the measure is computed
anew each time (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 16; in language
processing Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004). The bound is
the percentile of the differences, widened.

Resampling sees nothing of what no example showed: two models that never differ would get a bound of 0 from any
ten examples, and after a few rare losses the bound is too near. So the gap between difference and bound is widened
as Wilson's score interval does it for shares (see `widened`), by 0.14 points at 1,000 examples and 95 %.
`benchmarks/gate_coverage.py` measured how often the bound lies below the truth, which should be 95 times in 100:
where 2 % of the answers are lost and nothing else differs, the percentile 84.4 and 89.7 times (200 and 1,000
examples), BCa 94.4 and 92.8, the widened percentile 95.2 and 95.0; this one in other scenes of F1 96.2 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.metrics import Doubles, f1_of_totals, form, tie_bounds

RESAMPLES = 4_000
_SEED = 20_041_105
_AT_ONCE = 500_000
"""Weights in memory at a time, resamples times examples: 4 MB, and a few times that for Spearman's ranks."""


def percentile_bound(measure: str, teacher: NDArray[Any], student: NDArray[Any], confidence: float) -> float:
    """The one-sided lower bound of student minus teacher, in points; statistics (N, ...) as `metrics.check` wants.

    The seed is fixed: the same statistics give the same bound.
    """
    before, after = resampled(measure, teacher), resampled(measure, student)
    drawn = [after(weights) - before(weights) for weights in draws(len(teacher))]
    return float(np.quantile(np.concatenate(drawn), 1.0 - confidence))


def widened(gap: float, n: int, confidence: float) -> float:
    """The gap between difference and bound, in points, with what resampling n examples cannot see: w in

        w^2 = gap^2 + u w,  u = 100 z^2 / (n + z^2).

    If the truth were w below what was seen, the examples that show it, each costing 100 / n points at most, would
    make the variance larger too. For few losses, all of them total, this is Wilson's score interval (E. B. Wilson,
    JASA 22:209-212, 1927); without any disagreement w is u, as in Tango's test.
    """
    half = 50.0 * _z2(confidence) / (n + _z2(confidence))
    return half + math.hypot(gap, half)


def needed(gap: float, slack: float, n: int, confidence: float) -> int:
    """How many examples more than n make a gap widen to no more than `slack` points, at unchanged rates.

    `gap` is that of `n` examples, and shrinks with the square root of their number as the standard error does.
    """
    z2, variance = _z2(confidence), n * gap**2
    # `widened` = slack as a quadratic equation in the number of examples; the other root is negative.
    b = z2 - (variance / slack + 100.0 * z2) / slack
    enough = (math.hypot(b, 2.0 * math.sqrt(variance * z2) / slack) - b) / 2.0
    return max(1, math.ceil(enough) - n)


def _z2(confidence: float) -> float:
    return NormalDist().inv_cdf(confidence) ** 2


def draws(n: int) -> Iterator[Doubles]:
    """How often each of n examples is drawn, for some resamples at a time: (R, n), `RESAMPLES` rows in all."""
    generator = np.random.default_rng(_SEED)
    step = max(1, _AT_ONCE // n)
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        chosen = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def resampled(measure: str, statistics: NDArray[Any]) -> Callable[[Doubles], Doubles]:
    """The measure in points as a function of how often each example counts: (R, N) -> (R,)."""
    table = np.asarray(statistics, dtype=np.float64)
    kind = form(measure)
    if kind == "pairs":
        return _spearman(table)
    if kind == "counts":
        return lambda weights: 100.0 * f1_of_totals(np.stack([_sums(weights, column) for column in table.T], axis=1))
    return lambda weights: 100.0 * _sums(weights, table) / weights.sum(axis=1)


def _sums(weights: Doubles, values: Doubles) -> Doubles:
    # Not `weights @ values`: for so little work per number, BLAS with threads is much slower on a busy machine.
    return np.asarray(np.einsum("ij,j->i", weights, values), dtype=np.float64)


def _spearman(pairs: Doubles) -> Callable[[Doubles], Doubles]:
    # Sorted once: in a resample, an example's rank is told by how many of the smaller and of the equal were drawn.
    columns = [(np.argsort(column), *tie_bounds(column)) for column in pairs.T]

    def correlation(weights: Doubles) -> Doubles:
        middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
        upto = np.zeros((weights.shape[0], weights.shape[1] + 1))
        centred = []
        for order, smaller, not_larger in columns:
            np.cumsum(weights[:, order], axis=1, out=upto[:, 1:])
            centred.append((upto[:, smaller] + upto[:, not_larger] + 1) / 2 - middle)
        x, y = centred
        size = np.sqrt(np.einsum("ij,ij,ij->i", weights, x, x) * np.einsum("ij,ij,ij->i", weights, y, y))
        product = 100.0 * np.einsum("ij,ij,ij->i", weights, x, y)
        return np.asarray(np.divide(product, size, out=np.zeros_like(product), where=size > 0))

    return correlation
