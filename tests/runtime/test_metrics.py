"""Measures against scikit-learn, scipy and seqeval (tests/golden/make_metrics.py), hand calculations and invariants."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attar.runtime.errors import DataError
from attar.runtime.metrics import (
    auroc,
    average_ranks,
    best_thresholds,
    check,
    expected_calibration_error,
    f1_of_counts,
    fit_temperature,
    points,
    spearman,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics.json").read_text())
SMALL = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def f1_at(threshold: float, scores: Any, truth: Any) -> float:
    """F1 of predicting where the score is at least the threshold, by counting."""
    predicted = np.asarray(scores) >= threshold
    right = int((predicted & truth).sum())
    return 2 * right / (int(predicted.sum()) + int(np.sum(truth)))


def test_entity_f1_is_that_of_seqeval() -> None:
    counts = np.array(GOLDEN["entities"]["counts"])
    assert points("entity F1", counts) == pytest.approx(100 * GOLDEN["entities"]["f1"], abs=1e-10)
    assert points("entity F1", np.zeros((3, 3), int)) == GOLDEN["entities"]["nothing"] == 0


def test_micro_f1_is_that_of_scikit_learn() -> None:
    truth, predicted = np.array(GOLDEN["labels"]["truth"]), np.array(GOLDEN["labels"]["scores"]) >= 0.5
    counts = np.stack([(truth & predicted).sum(1), predicted.sum(1), truth.sum(1)], axis=1)
    assert points("micro F1", counts) == pytest.approx(100 * GOLDEN["labels"]["micro"], abs=1e-10)


@pytest.mark.parametrize("case", GOLDEN["spearman"])
def test_spearman_is_that_of_scipy(case: dict[str, Any]) -> None:
    assert spearman(case["a"], case["b"]) == pytest.approx(case["rho"], abs=1e-12)
    pairs = np.array([case["a"], case["b"]]).T
    assert points("Spearman", pairs) == pytest.approx(100 * case["rho"], abs=1e-10)


@pytest.mark.parametrize("case", GOLDEN["auroc"])
def test_auroc_is_that_of_scikit_learn(case: dict[str, Any]) -> None:
    assert auroc(case["inside"], case["outside"]) == pytest.approx(case["area"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["temperature"])
def test_temperature_is_where_scipy_finds_the_least_loss(case: dict[str, Any]) -> None:
    # A search that compares losses places a minimum only to the square root of the rounding error.
    assert fit_temperature(case["logits"], case["targets"]) == pytest.approx(case["temperature"], rel=1e-6)


def test_thresholds_reach_the_best_f1_of_the_precision_recall_curve() -> None:
    scores, truth = np.array(GOLDEN["labels"]["scores"]), np.array(GOLDEN["labels"]["truth"])
    found = [f1_at(t, s, y) for t, s, y in zip(best_thresholds(scores, truth), scores.T, truth.T, strict=True)]
    assert found == pytest.approx(GOLDEN["labels"]["best"], abs=1e-10)


def test_points_by_hand() -> None:
    right = np.array([True, False, True, True])
    for name in ("accuracy", "exact match", "recall@1", "recall@10", "intent: accuracy", "a: b: recall@5"):
        assert points(name, right) == 75
    assert points("F1", np.array([1, 0.5, 0, 0.5], dtype=np.float32)) == 50
    counts = np.array([[1, 2, 1], [0, 0, 1], [2, 2, 2]])
    assert points("slots: entity F1", counts) == points("micro F1", counts.astype(float)) == 75  # 2 * 3 / (4 + 4)
    assert f1_of_counts(counts) == 0.75
    assert points("Spearman", np.array([[1.0, 3], [2, 2], [3, 1]])) == -100


def test_ranks_of_equal_values_are_shared() -> None:
    assert average_ranks(np.array([3.0, 1, 3, 3, 2])).tolist() == [4, 1, 4, 4, 2]


@pytest.mark.parametrize("constant", [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [0.1, 0.1, 0.1]), ([4], [2])])
def test_a_constant_side_has_no_correlation(constant: tuple[list[float], list[float]]) -> None:
    assert spearman(*constant) == 0


@given(SMALL, SMALL)
def test_auroc_counts_pairs(inside: list[int], outside: list[int]) -> None:
    pairs = [(i > o) + (i == o) / 2 for i in inside for o in outside]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside), abs=1e-12)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=40))
def test_spearman_sees_the_order_alone(rows: list[tuple[int, int]]) -> None:
    a, b = np.array(rows, dtype=float).T
    assert -1 <= spearman(a, b) <= 1
    assert spearman(np.exp(a), b**3) == pytest.approx(spearman(a, b), abs=1e-12)
    assert spearman(-a, b) == pytest.approx(-spearman(a, b), abs=1e-12)
    assert spearman(b, a) == pytest.approx(spearman(a, b), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    """Two bins: (0, 0.5] holds 0.5 wrong; (0.5, 1] holds 0.6 right, 0.9 right, 0.8 wrong."""
    table = np.array([[0.5, 0.5], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])
    gaps = 0.25 * 0.5 + 0.75 * abs(2 / 3 - (0.6 + 0.9 + 0.8) / 3)
    assert expected_calibration_error(table, [1, 1, 0, 0], bins=2) == pytest.approx(gaps)
    assert expected_calibration_error(table, [1, 1, 0, 0], bins=1) == pytest.approx(abs(0.5 - 0.7))
    sure = np.eye(3, dtype=np.float32)
    assert expected_calibration_error(sure, np.arange(3)) == 0
    assert expected_calibration_error(sure, [1, 2, 0]) == 1


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_calibration_error_bin_by_bin(seed: int, bins: int) -> None:
    """The definition of Guo et al., one bin after the other."""
    random = np.random.default_rng(seed)
    table, targets = random.dirichlet([0.7] * 4, 50), random.integers(0, 4, 50)
    top, right = table.max(axis=1), table.argmax(axis=1) == targets
    total = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1), np.linspace(0, 1, bins + 1)[1:], strict=False):
        if (inside := (top > low) & (top <= high)).any():
            total += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert expected_calibration_error(table, targets, bins) == pytest.approx(total, abs=1e-12)


def loss(logits: Any, targets: Any, temperature: float) -> float:
    """Mean negative log likelihood."""
    scaled = logits / temperature
    shifted = scaled - scaled.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]))


@given(st.integers(0, 10_000), st.floats(0.2, 5), st.integers(2, 6))
def test_no_other_temperature_fits_better_and_scaling_scales_it(seed: int, factor: float, classes: int) -> None:
    random = np.random.default_rng(seed)
    logits, targets = random.normal(0, 2, (40, classes)), random.integers(0, classes, 40)
    targets = np.where(random.random(40) < 0.6, logits.argmax(axis=1), targets)
    found = fit_temperature(logits, targets)
    assert 0.05 <= found <= 20
    least = loss(logits, targets, found)
    assert all(least <= loss(logits, targets, float(t)) + 1e-12 for t in np.geomspace(0.05, 20, 60))
    assume(0.05 < found < 20 and 0.05 < factor * found < 20)
    assert fit_temperature(factor * logits, targets) == pytest.approx(factor * found, rel=1e-9)
    shifted = logits + random.normal(0, 30, (40, 1))
    assert fit_temperature(shifted, targets) == pytest.approx(found, rel=1e-9)


def test_temperature_by_hand_and_at_its_ends() -> None:
    # Right three times in four at a margin of 2: the softmax must say 3/4, so 2 / T = ln 3.
    assert fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 1]) == pytest.approx(2 / math.log(3), rel=1e-12)
    assert fit_temperature([[1.0, 0.0]] * 3, [0, 0, 0]) == 0.05
    assert fit_temperature([[1.0, 0.0]] * 3, [1, 1, 1]) == 20
    assert fit_temperature([[1.0, 1.0]] * 3, [1, 0, 1]) == 1
    assert fit_temperature([[1e6, 0.0]] * 4, [0, 0, 0, 1]) == 20
    assert fit_temperature([[1e6, 0.0]] * 4, [0, 0, 0, 0]) == 1


def test_thresholds_by_hand() -> None:
    scores = np.array([[0.1, 0.2, 0.9, 0.9], [0.2, 0.6, 0.3, 0.8], [0.4, 0.8, 0.2, 0.1], [0.8, 0.9, 0.1, 0.0]])
    truth = np.array([[0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 0, 1], [1, 1, 0, 0]], dtype=bool)
    # Between 0.2 and 0.4; below all; never true. The last: three predicted for one right, F1 1/2, below 0.1.
    assert best_thresholds(scores, truth) == pytest.approx([0.3, 0.1, 0.5, 0.05])
    # One right of one, or two of three: F1 2/3 or 4/5 - and where two cuts tie, the one nearer to 0.5 is taken.
    tied = np.array([[0.9], [0.7], [0.6], [0.2]])
    both = np.array([[True], [False], [False], [True]])  # F1 is 2/3 above 0.7 (cut 0.8) and below 0.2 (cut 0.1)
    assert best_thresholds(tied, both) == pytest.approx([0.8])


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=30))
def test_no_other_threshold_is_better(rows: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([r[0] / 20 for r in rows]), np.array([r[1] for r in rows])
    found = best_thresholds(scores[:, None], truth[:, None])[0]
    assert 0 <= found <= 1
    if not truth.any():
        assert found == 0.5
        return
    best = f1_at(found, scores, truth)
    tried = [(f1_at(t, scores, truth), t) for t in np.arange(41) / 40]
    assert best >= max(f for f, _ in tried) - 1e-12


@pytest.mark.parametrize(
    ("name", "statistics", "message"),
    [
        ("bleu", [True], "unknown measure 'bleu'; known: accuracy, exact match, recall@k, F1, entity F1"),
        ("slots: f1", [0.5], "unknown measure 'slots: f1'"),
        ("accuracy", [], "accuracy: no examples"),
        ("entity F1", np.zeros((0, 3)), "entity F1: no examples"),
        ("accuracy", [1, 0], "accuracy is made of booleans, not of int64"),
        ("accuracy", [[True]], r"an array \(N,\): one dimension, not of shape \(1, 1\)"),
        ("F1", [True, False], "F1 is made of numbers, not of bool"),
        ("F1", [0.5, 1.5], "F1 is made of numbers from 0 to 1, not of 1.5"),
        ("F1", [0.5, math.nan], "F1: example 1 is not finite"),
        ("micro F1", [[1, 2]], r"micro F1 is made of an array \(N, 3\), not of shape \(1, 2\)"),
        ("micro F1", [[0, -1, 0]], "micro F1 is made of numbers from 0 on, not of -1"),
        ("micro F1", [[1, 2, 2], [3, 2, 3]], "more true positives than predicted or actual"),
        ("Spearman", [1.0, 2.0], r"Spearman is made of an array \(N, 2\)"),
        ("Spearman", [[1.0, 2.0], [math.inf, 0]], "Spearman: example 1 is not finite"),
    ],
)
def test_unusable_statistics_are_refused(name: str, statistics: Any, message: str) -> None:
    for refuse in (points, check):
        with pytest.raises(DataError, match=message):
            refuse(name, np.asarray(statistics, dtype=bool if not np.size(statistics) and name == "accuracy" else None))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 2], [1]), "2 values on one side, 1 on the other"),
        (lambda: spearman([], []), "Spearman needs at least one number"),
        (lambda: auroc([], [1]), "AUROC needs at least one number"),
        (lambda: auroc([1.0, math.nan], [1]), "AUROC: number 1 is not finite"),
        (lambda: expected_calibration_error([[2.0, -1.0]], [0]), "apply softmax"),
        (lambda: expected_calibration_error([[0.5, 0.5]], [0], bins=0), "bins must be at least 1"),
        (lambda: expected_calibration_error([[0.5, 0.5]], [2]), "class ids must be 0 to 1, not 2 to 2"),
        (lambda: fit_temperature([[0.5, 0.5]], [-100]), "class ids must be 0 to 1, not -100 to -100"),
        (lambda: fit_temperature([[0.5, 0.5]], [0, 1]), r"needs scores \(N, C\) and class ids"),
        (lambda: fit_temperature(np.zeros((0, 2)), np.zeros(0, int)), r"needs scores \(N, C\) and class ids"),
        (lambda: fit_temperature([[0.5, -math.inf]], [0]), "scores of example 0 are not finite"),
        (lambda: best_thresholds([[0.5]], [[1]]), "booleans of the same shape"),
        (lambda: best_thresholds([[0.5, 0.1]], [[True]]), "booleans of the same shape"),
        (lambda: best_thresholds([[1.5]], [[True]]), "between 0 and 1"),
        (lambda: best_thresholds([[math.nan]], [[True]]), "between 0 and 1"),
    ],
)
def test_unusable_numbers_are_refused(call: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
