"""The paired bootstrap against scipy (tests/golden/make_metrics.py), resamples written out, and Wilson's interval."""

import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attar.compress import bootstrap
from attar.compress.gate import lower_bound
from attar.runtime.metrics import points

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
SOME: dict[str, Any] = {
    "F1": lambda random, n: 0.25 * random.integers(0, 5, n),
    "entity F1": lambda random, n: random.integers(0, 3, n)[:, None] + [[0, 1, 0]] * random.integers(0, 2, (n, 1)),
    "Spearman": lambda random, n: random.integers(0, 4, (n, 2)),
}


@pytest.mark.parametrize("case", GOLDEN["bootstrap"], ids=lambda case: case["measure"])
def test_the_bootstrap_finds_what_scipy_finds(case: dict[str, Any]) -> None:
    """Both draw at random: 4,000 and 20,000 resamples place the 5th percentile to 0.04 standard errors (1 sigma)."""
    found = bootstrap.percentile_bound(case["measure"], np.array(case["teacher"]), np.array(case["student"]), 0.95)
    assert found == pytest.approx(case["bound"], abs=0.12 * case["error"])


@pytest.mark.parametrize("measure", SOME)
def test_weights_mean_repeated_examples(measure: str) -> None:
    """The measure of a resample is that of the examples written out, ties and constant draws included."""
    for n in (1, 2, 5, 40):
        statistics = SOME[measure](np.random.default_rng(n), n)
        drawn = next(bootstrap.draws(n))[:50]
        expected = [points(measure, np.repeat(statistics, row.astype(int), axis=0)) for row in drawn]
        assert bootstrap.resampled(measure, statistics)(drawn) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [1, 7, 700])
def test_resamples_are_as_large_as_the_sample_and_always_the_same(n: int) -> None:
    rows = np.concatenate(list(bootstrap.draws(n)))
    assert rows.shape == (bootstrap.RESAMPLES, n) and (rows.sum(axis=1) == n).all()
    assert rows.mean(axis=0) == pytest.approx(1, abs=6 / math.sqrt(bootstrap.RESAMPLES))
    assert (np.concatenate(list(bootstrap.draws(n))) == rows).all()


def test_few_total_losses_get_the_score_interval_of_wilson() -> None:
    """9 losses of 900, Wilson (1927): centre (p + z^2/2n) / (1 + z^2/n), here with 1 + z^2/n and 1 - p about 1."""
    n, p, z = 900, 0.01, NormalDist().inv_cdf(0.95)
    wilson = p + z * z / (2 * n) + z * math.sqrt(p / n + z * z / (4 * n * n))
    gap = 100 * z * math.sqrt(p / n)
    assert 100 * p + bootstrap.widened(gap, n, 0.95) == pytest.approx(100 * wilson, rel=0.005)
    assert bootstrap.widened(0.0, n, 0.95) == pytest.approx(-100 * lower_bound(0, 0, n, 0.95), rel=1e-9)


@given(st.floats(0, 30), st.floats(0.05, 20), st.integers(2, 5000))
def test_needed_is_the_fewest_examples_whose_gap_fits(gap: float, slack: float, n: int) -> None:
    assume(bootstrap.widened(gap, n, 0.95) > slack)
    more = bootstrap.needed(gap, slack, n, 0.95)
    assert bootstrap.widened(gap * math.sqrt(n / (n + more)), n + more, 0.95) <= slack + 1e-9
    fewer = n + more - 1
    assert more == 1 or bootstrap.widened(gap * math.sqrt(n / fewer), fewer, 0.95) >= slack - 1e-9
