"""Regression: numbers in the unit of the labels, whatever the network sees."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Head
from attar.runtime.tasks.regression import Regression, Score
from attar.runtime.tokenizer import Encoded

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sequence_tasks.json").read_text())


def rows(count: int, cut: bool = False) -> Encoded:
    return Encoded([[1]] * count, [cut] * count)


def answered(task: Regression, z: Any) -> list[Score]:
    array = np.array(z, dtype=np.float32).reshape(-1, 1)
    return task.answers(rows(len(array)), {"logits": array})


def test_values_are_those_of_the_transformers_pipeline() -> None:
    golden = GOLDEN["regression"]
    found = [answer.value for answer in answered(Regression(), golden["logits"])]
    assert found == pytest.approx([row["a"] for row in golden["scores"]], abs=1e-6)


def test_labels_are_standardised_as_scikit_learn_does() -> None:
    golden = GOLDEN["scaling"]
    values = golden["values"]
    task = Regression.from_labels(values, ["x"] * len(values), 64)
    assert (task.max_length, task.pair) == (64, False)
    assert (task.mean, task.scale) == pytest.approx((golden["mean"], golden["scale"]))
    targets = task.targets(rows(len(values)), values)["logits"]
    assert targets.dtype == np.float32 and targets.shape == (len(values), 1)
    np.testing.assert_allclose(targets[:, 0], golden["z"], rtol=1e-6)


def test_an_answer_by_hand() -> None:
    task = Regression(mean=3.0, scale=0.5)
    assert [a.value for a in answered(task, [0, 2, -4])] == [3.0, 4.0, 1.0]
    cut = task.answers(rows(1, cut=True), {"logits": np.zeros((1, 1), dtype=np.float32)})[0]
    assert cut == Score(3.0, truncated=True)
    assert (repr(Score(3.14159265)), repr(cut)) == ("Score(3.142)", "Score(3, truncated=True)")


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8), st.floats(-100, 100), st.floats(0.01, 100))
def test_a_network_that_meets_its_targets_answers_the_labels(values: list[float], mean: float, scale: float) -> None:
    task = Regression(mean=mean, scale=scale)
    found = answered(task, task.targets(rows(len(values)), values)["logits"])
    # float32 has 7 digits, of the standardised number.
    assert [a.value for a in found] == pytest.approx(values, rel=1e-5, abs=1e-4)


def test_head_and_gate() -> None:
    assert Regression().heads == (Head("logits", 1, "first", "value"),)
    assert Regression().gates == ("Spearman",)


def test_statistics_hold_prediction_and_truth() -> None:
    found = Regression().statistics(lambda texts: [Score(1.5), Score(-2.0)], ["x", "y"], ["4", 0.5])
    assert list(found) == ["Spearman"] and found["Spearman"].dtype == np.float64
    np.testing.assert_array_equal(found["Spearman"], [[1.5, 4.0], [-2.0, 0.5]])


def test_labels_are_numbers_or_strings_of_them() -> None:
    assert Regression().named([1, "2.5", np.float32(0.5), " -3e2 "], ["x"] * 4) == (1.0, 2.5, 0.5, -300.0)


@pytest.mark.parametrize("label", ["good", "", None, math.nan, "inf", -math.inf, True, ("1", "2"), 10**400, 1e300])
def test_a_label_that_is_no_number_is_named(label: Any) -> None:
    with pytest.raises(DataError, match="is not a finite number"):
        Regression().named([1.0, label], ["x", "y"])
    with pytest.raises(DataError, match="is not a finite number"):
        Regression.from_labels([1.0, label], ["x", "y"])


@pytest.mark.parametrize("labels", [[], [2.0], [0.1] * 10, [0.0, 5e-324]])
def test_labels_that_are_all_the_same_teach_nothing(labels: list[float]) -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        Regression.from_labels(labels, ["x"] * len(labels))


def test_single_texts_and_pairs_are_not_mixed_up() -> None:
    task = Regression.from_labels([1, 2], [("x", "y"), ("y", "z")])
    assert task.pair and task.pairs
    with pytest.raises(DataError, match="example 1 is a single text, but the task reads pairs"):
        task.named([1.0], ["x"])
    with pytest.raises(DataError, match="example 2 is a pair"):
        Regression.from_labels([1, 2], ["x", ("y", "z")])


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_impossible_settings_are_refused(mean: float, scale: float) -> None:
    with pytest.raises(SettingsError, match="finite mean and a scale above 0"):
        Regression(mean=mean, scale=scale)
