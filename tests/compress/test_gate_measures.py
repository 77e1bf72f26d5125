"""The gate by other measures than accuracy: by the paired bootstrap, and by several measures at once."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attar.compress.gate import OWN, GateSettings, Verdict, judge, judge_all, sentence, worst
from attar.runtime.errors import DataError
from attar.runtime.metrics import points
from tests.compress.outcomes import answers

margins = st.floats(0.01, 50)


def some(measure: str, n: int, seed: int, worse: float = 0.0) -> NDArray[Any]:
    """Made-up statistics of n examples; `worse` is the share that is lost. What is right depends on n alone."""
    actual, random = np.random.default_rng(n).integers(0, 4, n), np.random.default_rng(seed)
    if measure == "F1":
        return np.where(random.random(n) < worse, 0.0, 0.25 * actual)
    if measure == "Spearman":
        return np.stack([random.integers(0, 3, n) + actual * (random.random(n) >= worse), actual], axis=1)
    right = random.binomial(actual, 0.9 * (1 - worse))
    return np.stack([right, right + random.integers(0, 2, n), actual], axis=1)


others = pytest.mark.parametrize("measure", ["F1", "entity F1", "Spearman"])


def test_false_accepts_of_the_bootstrap_stay_within_the_level() -> None:
    """Students that lose exactly the margin, each question with 2 %, and then all of it, which makes F1 skewed."""
    n, share, accepted = 400, 0.02, 0.0
    for losses in range(13):
        student = (np.arange(n) >= losses).astype(float)
        if judge(np.ones(n), student, GateSettings(margin=100 * share), "F1").verdict == "pass":
            accepted += math.comb(n, losses) * share**losses * (1 - share) ** (n - losses)
    assert 0.005 < accepted <= 0.05, "above: too many pass; below: a gate that never passes proves nothing"


@others
@given(st.integers(1, 200), st.floats(0, 0.5), margins, st.floats(0.5, 0.99))
@settings(max_examples=10)
def test_other_measures_decide_by_the_bound_too(
    measure: str, n: int, worse: float, margin: float, confidence: float
) -> None:
    teacher, student = some(measure, n, 0), some(measure, n, 1, worse)
    verdict = judge(teacher, student, GateSettings(margin, confidence), measure)
    assert verdict.difference == pytest.approx(points(measure, student) - points(measure, teacher), abs=1e-9)
    assert min(-100, verdict.difference) <= verdict.lower_bound <= verdict.difference
    expected = "fail" if verdict.difference <= -margin else "not enough data"
    assert verdict.verdict == ("pass" if verdict.lower_bound >= -margin and expected != "fail" else expected)
    assert (verdict.needed is not None) == (verdict.verdict == "not enough data")


@others
@pytest.mark.parametrize("n", [3, 60, 1000])
def test_models_that_never_differ_are_judged_as_in_tangos_test(measure: str, n: int) -> None:
    statistics = some(measure, n, 0)
    verdict = judge(statistics, statistics, GateSettings(), measure)
    tango = judge(np.ones(n, bool), np.ones(n, bool), GateSettings())
    assert (verdict.verdict, verdict.needed, verdict.difference) == (tango.verdict, tango.needed, 0.0)
    assert verdict.lower_bound == pytest.approx(tango.lower_bound)


def test_as_many_examples_as_were_needed_are_enough() -> None:
    teacher, student = some("entity F1", 100, 0), some("entity F1", 100, 1)
    few = judge(teacher, student, GateSettings(), "entity F1")
    assert few.verdict == "not enough data" and few.needed is not None
    copies = math.ceil(1.1 * (few.needed + few.n) / few.n)  # a tenth more, because resampling is noisy
    many = judge(np.tile(teacher, (copies, 1)), np.tile(student, (copies, 1)), GateSettings(), "entity F1")
    assert many.verdict == "pass"


def test_all_measures_must_pass_and_the_worst_decides() -> None:
    right, wrong = answers(1678, 50, 40, 232)
    teacher = {"intent: accuracy": right, "slots: entity F1": some("entity F1", 2000, 0), "recall@5": right}
    student = {"intent: accuracy": wrong, "slots: entity F1": some("entity F1", 2000, 1, 0.2), "recall@5": right}
    verdicts = judge_all(teacher, student, ["intent: accuracy", "slots: entity F1"], GateSettings())
    assert [(v.measure, v.verdict) for v in verdicts] == [("intent: accuracy", "pass"), ("slots: entity F1", "fail")]
    assert verdicts[0] == judge(right, wrong, GateSettings(), "intent: accuracy")
    assert worst(verdicts).measure == worst(verdicts[::-1]).measure == "slots: entity F1"
    assert worst(judge_all(teacher, student, ["recall@5", "intent: accuracy"], GateSettings())) == verdicts[0]
    with pytest.raises(DataError, match="the student has no statistics of 'F1'; known: accuracy"):
        judge_all({"F1": right}, {"accuracy": right}, ["F1"], GateSettings())
    with pytest.raises(DataError, match="no measure to judge by"):
        worst(judge_all(teacher, student, [], GateSettings()))


@pytest.mark.parametrize("outcomes", [("fail", "not enough data"), ("not enough data", "pass"), ("fail", "pass")])
def test_the_outcome_weighs_more_than_the_bound(outcomes: tuple[Any, Any]) -> None:
    bad, good = (
        Verdict(o, 0.0, b, 2.0, 0.95, 9, 90.0, 90.0, None) for o, b in zip(outcomes, (-1.0, -9.0), strict=True)
    )
    assert worst([good, bad]) is worst([bad, good]) is bad


def test_sentences_name_the_measure() -> None:
    verdict = Verdict("pass", -0.94, -1.6, 2.0, 0.95, 2000, 46.04, 45.1, None, "slots: entity F1")
    assert verdict.sentence() == (
        "PASS: student 45.1 vs teacher 46.0 slots: entity F1: -0.9 points, 95 % lower bound -1.6, margin 2.0, "
        "2,000 examples"
    )
    assert Verdict(**json.loads(json.dumps(verdict.to_json()))) == verdict
    record = judge(*answers(1678, 50, 40, 232), GateSettings()).to_json()
    named = sentence(record)
    assert record.pop("measure") == "accuracy" and sentence(record) == named  # a bundle of an older version


@pytest.mark.parametrize(
    ("teacher", "student", "measure", "message"),
    [
        ([True], [True], "bleu", "gate: teacher: unknown measure 'bleu'"),
        ([True], [True], "F1", "gate: teacher: F1 is made of numbers, not of bool"),
        ([0.5, 1.0], [0.5, math.nan], "F1", "gate: student: F1: example 1 is not finite"),
        ([0.5, 1.0], [0.5], "F1", "gate: 2 teacher answers but 1 student answers"),
        ([[1, 1, 1]], [[1, 1]], "entity F1", r"gate: student: entity F1 is made of an array \(N, 3\)"),
        ([[1, 1, 1]], [[1, 1, 2]], "entity F1", "gate: in entity F1, teacher and student differ in what is right"),
        ([[1.0, 2.0]], [[1.0, 3.0]], "Spearman", "gate: in Spearman, teacher and student differ in what is right"),
    ],
)
def test_unusable_statistics_are_refused(teacher: list[Any], student: list[Any], measure: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge(np.array(teacher), np.array(student), GateSettings(), measure)


def test_retrieval_is_judged_as_examples_that_share_their_neighbours() -> None:
    """Recall@1 among 200 texts of 50 classes, students at the margin: taken for independent, 7 % of them passed."""
    random, gaps, pairs = np.random.default_rng(0), [], []
    for _ in range(600):
        classes = np.arange(200) % 50
        teacher = random.normal(0, 1, (50, 24))[classes] + random.normal(0, 0.75, (200, 24))
        both = [_nearest_is_right(v, classes) for v in (teacher, teacher + random.normal(0, 0.3, (200, 24)))]
        gaps.append(100 * (both[0].mean() - both[1].mean()))
        pairs.append(both)
    gate = GateSettings(margin=float(np.mean(gaps)))
    passed = sum(judge(*both, gate, "recall@1").verdict == "pass" for both in pairs)
    assert 0 < passed <= 0.05 * len(pairs)


def _nearest_is_right(vectors: NDArray[np.float64], classes: NDArray[np.intp]) -> NDArray[np.bool_]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    return np.asarray(classes[cosines.argmax(axis=1)] == classes)


def test_a_verdict_says_where_labels_were_none() -> None:
    verdict = replace(judge(*answers(95, 5, 0, 0), GateSettings(margin=20)), labels=OWN)
    assert verdict.sentence().endswith("100 examples; by the model's own answers: an agreement, not an accuracy")
    assert Verdict(**json.loads(json.dumps(verdict.to_json()))) == verdict
