"""The accuracy gate against published intervals, a brute-force likelihood search and simulation."""

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compress.gate import GateSettings, Verdict, judge, lower_bound, score
from attar.runtime.errors import DataError, SettingsError
from tests.compress.outcomes import answers


def interval(teacher_only: int, student_only: int, n: int, two_sided: float) -> tuple[float, float]:
    """Tango's two-sided interval; the upper end is the lower one with the roles exchanged."""
    confidence = (1 + two_sided) / 2
    return lower_bound(teacher_only, student_only, n, confidence), -lower_bound(
        student_only, teacher_only, n, confidence
    )


def test_airway_example_of_fagerland_lydersen_and_laake() -> None:
    """Bentur et al. (2009): 1, 1, 7, 12 of 21; Statistics in Medicine 33 (2014): (-0.517, -0.026)."""
    assert interval(7, 1, 21, 0.95) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_contact_lens_example_of_tango() -> None:
    """Miyanaga's trial in Tango (1998): 43, 0, 1, 0 of 44, z = 1.709 at -0.1, 90 % interval from -0.096."""
    assert score(1, 0, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert lower_bound(1, 0, 44, 0.95) == pytest.approx(-0.096, abs=5e-4)


def test_no_disagreement_has_a_closed_form() -> None:
    """With b = c = 0 the score is sqrt(n d / (1 - d)) at -d, so the bound is -z^2 / (n + z^2)."""
    z2 = NormalDist().inv_cdf(0.95) ** 2
    for n in (1, 30, 2000):
        assert lower_bound(0, 0, n, 0.95) == pytest.approx(-z2 / (n + z2), rel=1e-9)


def brute_score(b: int, c: int, n: int, delta: float) -> float:
    """The score statistic with the constrained maximum likelihood found by ternary search."""

    def log_likelihood(q: float) -> float:  # q = P(only the teacher is right)
        probabilities = ((b, q), (c, q + delta), (n - b - c, 1 - 2 * q - delta))
        return sum(count * math.log(p) if p > 0 else -math.inf for count, p in probabilities if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    for _ in range(90):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if log_likelihood(left) < log_likelihood(right):
            low = left
        else:
            high = right
    q = (low + high) / 2
    # Variance of (c - b) / n when P(student only) = q + delta.
    return ((c - b) / n - delta) / math.sqrt((q + q + delta - delta * delta) / n)


@pytest.mark.parametrize(
    ("b", "c", "n"), [(12, 9, 200), (3, 0, 40), (0, 5, 60), (40, 22, 500), (1, 1, 2), (7, 1, 21), (10, 0, 10)]
)
def test_score_and_bound_agree_with_a_brute_force_likelihood_search(b: int, c: int, n: int) -> None:
    for delta in (-0.5, -0.1, -0.02, -0.001, 0.03, 0.4):
        assert score(b, c, n, delta) == pytest.approx(brute_score(b, c, n, delta), rel=1e-5, abs=1e-5)
    z = NormalDist().inv_cdf(0.95)
    grid = np.linspace(-0.9999, (c - b) / n - 1e-9, 1500)
    kept = [delta for delta in grid if brute_score(b, c, n, float(delta)) <= z] if b < n else [-1.0]
    assert lower_bound(b, c, n, 0.95) == pytest.approx(min(kept), abs=1e-3)


def test_false_accepts_at_the_margin_stay_within_the_level() -> None:
    """1,000 students whose true loss is exactly the margin: at most 5 % may pass, up to noise."""
    generator = np.random.default_rng(20_241_105)
    n, models = 1000, 1000
    counts = generator.multinomial(n, [0.80, 0.06, 0.04, 0.10], size=models)
    outcomes = [judge(*answers(*map(int, row)), GateSettings(margin=2.0)).verdict for row in counts]
    error = math.sqrt(0.05 * 0.95 / models)
    assert outcomes.count("pass") / models <= 0.05 + 2 * error
    assert outcomes.count("pass") > 0, "a gate that never passes proves nothing"


def test_power_grows_with_the_examples() -> None:
    small, large = (judge(*answers(8 * k, k // 5, k // 5, k), GateSettings()) for k in (10, 400))
    assert (small.verdict, large.verdict) == ("not enough data", "pass")
    assert small.lower_bound < large.lower_bound < 0.0 == small.difference


counts = st.tuples(*[st.integers(0, 300)] * 4).filter(lambda row: sum(row) > 0)
margins = st.floats(0.01, 50)


@given(counts, margins, st.floats(0.5, 0.999))
@settings(deadline=None)
def test_bound_lies_below_the_difference_and_decides(
    row: tuple[int, int, int, int], margin: float, confidence: float
) -> None:
    verdict = judge(*answers(*row), GateSettings(margin, confidence))
    assert -100 <= verdict.lower_bound <= verdict.difference <= 100
    assert verdict.difference == pytest.approx(verdict.student - verdict.teacher, abs=1e-9)
    expected = "fail" if verdict.difference <= -margin else "not enough data"
    assert verdict.verdict == ("pass" if verdict.lower_bound >= -margin and expected != "fail" else expected)
    assert (verdict.needed is not None) == (verdict.verdict == "not enough data")


@given(st.lists(st.booleans(), min_size=1, max_size=400), margins)
@settings(deadline=None)
def test_identical_models_never_fail(correct: list[bool], margin: float) -> None:
    verdict = judge(np.array(correct), np.array(correct), GateSettings(margin=margin))
    assert verdict.verdict != "fail"
    assert verdict.difference == 0


@given(counts, margins, margins)
@settings(deadline=None)
def test_more_margin_never_makes_it_worse(row: tuple[int, int, int, int], one: float, other: float) -> None:
    order = ["fail", "not enough data", "pass"]
    strict, lenient = (judge(*answers(*row), GateSettings(margin=m)).verdict for m in sorted((one, other)))
    assert order.index(strict) <= order.index(lenient)


@given(counts, st.floats(0.5, 20))
@settings(deadline=None)
def test_needed_is_the_fewest_examples_that_pass_at_these_rates(row: tuple[int, int, int, int], margin: float) -> None:
    gate = GateSettings(margin=margin)
    verdict = judge(*answers(*row), gate)
    if verdict.needed is None:
        return
    b, c, n, z = row[1], row[2], verdict.n, NormalDist().inv_cdf(0.95)
    enough = (n + verdict.needed) / n
    assert score(b * enough, c * enough, n * enough, -margin / 100) >= z - 1e-9
    fewer = (n + verdict.needed - 1) / n
    assert score(b * fewer, c * fewer, n * fewer, -margin / 100) <= z + 1e-9
    # With whole copies of the same examples the rates are kept exactly, and judge itself must agree.
    copies = math.ceil(enough)
    if copies * n < 200_000:
        assert judge(*answers(*(count * copies for count in row)), gate).verdict == "pass"


def test_a_worked_sentence() -> None:
    verdict = judge(*answers(1678, 50, 40, 232), GateSettings())
    assert verdict.sentence() == (
        "PASS: student 85.9 % vs teacher 86.4 %: -0.5 points, 95 % lower bound -1.3, margin 2.0, 2,000 examples"
    )
    few = judge(*answers(84, 3, 2, 11), GateSettings())
    assert few.sentence().startswith("NOT ENOUGH DATA: student 86.0 % vs teacher 87.0 %: -1.0 points")
    assert f"; about {few.needed:,} more needed at these rates" in few.sentence()
    assert judge(*answers(70, 20, 5, 5), GateSettings()).sentence().startswith("FAIL: ")
    assert " 0.0 points" in judge(*answers(10, 0, 0, 1), GateSettings(margin=0.25)).sentence()


def test_the_printed_bound_is_never_better_than_the_real_one() -> None:
    verdict = Verdict("not enough data", -0.5, -2.04, 2.0, 0.95, 900, 90.0, 89.5, 40)
    assert "lower bound -2.1, margin 2.0" in verdict.sentence()


def test_json_round_trip() -> None:
    verdict = judge(*answers(50, 3, 2, 5), GateSettings())
    assert Verdict(**json.loads(json.dumps(verdict.to_json()))) == verdict


@pytest.mark.parametrize(
    ("teacher", "student"),
    [([], []), ([True], [True, False]), ([[True]], [[True]]), ([1.0, 0.0], [True, False]), ([1, 0], [1, 0])],
)
def test_unusable_answers_are_refused(teacher: list[object], student: list[object]) -> None:
    with pytest.raises(DataError, match="gate: "):
        judge(np.array(teacher), np.array(student), GateSettings())


@pytest.mark.parametrize("margin", [0, -1, 100, math.nan, math.inf, True, "2"])
def test_impossible_margins_are_refused(margin: float) -> None:
    with pytest.raises(SettingsError, match="margin"):
        GateSettings(margin=margin)


@pytest.mark.parametrize("confidence", [0.4, 1, 95, math.nan, None])
def test_impossible_confidences_are_refused(confidence: float) -> None:
    with pytest.raises(SettingsError, match="confidence"):
        GateSettings(confidence=confidence)
