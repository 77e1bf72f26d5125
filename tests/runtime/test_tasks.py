"""What all tasks share: the mathematics of outputs, JSON there and back, options."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.tasks import task_class, task_of
from attar.runtime.tasks.base import Head, Task, activate, jsonable, parse_pair, sigmoid, softmax
from attar.runtime.tasks.classification import Classification, Labels, TextClassification
from attar.runtime.tasks.embeddings import Embedding, Vector
from attar.runtime.tasks.regression import Regression, Score

LOGIT = st.floats(-60, 60, width=32) | st.floats(-(2.0**100), 2.0**100, width=32)
NAMES = st.lists(st.text(max_size=5), min_size=2, max_size=5, unique=True).map(tuple)
LENGTH = st.integers(3, 512)
TEMPERATURE = st.floats(0.001, 1000)


@st.composite
def many_labels(draw: st.DrawFn) -> TextClassification:
    names = draw(NAMES)
    each = st.lists(st.floats(0, 1), min_size=len(names), max_size=len(names))
    thresholds = tuple(draw(st.just([]) | each))
    return TextClassification(names, draw(LENGTH), True, draw(st.booleans()), thresholds, draw(TEMPERATURE))


@st.composite
def embeddings(draw: st.DrawFn) -> Embedding:
    width = draw(st.integers(1, 64))
    return Embedding(
        width, draw(LENGTH), draw(st.sampled_from(["mean", "cls", "max"])), draw(st.integers(0, width)),
        draw(st.booleans()), draw(st.text()), draw(st.sampled_from(["Spearman", "recall@1"])),
    )  # fmt: skip


ONE_LABEL = st.builds(TextClassification, NAMES, LENGTH, pair=st.booleans(), temperature=TEMPERATURE)
REGRESSION = st.builds(Regression, LENGTH, st.booleans(), st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))


def by_hand(row: list[float]) -> list[float]:
    """Softmax in double precision."""
    powers = [math.exp(x - max(row)) for x in row]
    return [p / sum(powers) for p in powers]


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 5)), elements=LOGIT))
def test_softmax_is_right_however_large_the_logits(logits: np.ndarray) -> None:
    found = softmax(logits)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [by_hand(row) for row in logits.tolist()], rtol=1e-5, atol=1e-7)


@given(arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 5)), elements=LOGIT))
def test_sigmoid_is_right_however_large_the_logits(logits: np.ndarray) -> None:
    found = sigmoid(logits)
    # exp(700) is the largest power of e that a double holds, or nearly.
    expected = [[1 / (1 + math.exp(-max(-700.0, x))) for x in row] for row in logits.tolist()]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_softmax_and_sigmoid_of_round_numbers() -> None:
    logits = np.array([[0.0, math.log(3.0)]], dtype=np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(sigmoid(logits), [[0.5, 0.75]], rtol=1e-6)


def head(objective: Any) -> Head:
    return Head("logits", 2, "first", objective)


def test_activate_by_objective() -> None:
    log3 = math.log(3.0)
    raw = np.array([[0.0, log3], [log3, 0.0], [0.0, log3]], dtype=np.float32)
    np.testing.assert_allclose(activate(head("classes"), raw), [[0.25, 0.75], [0.75, 0.25], [0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(activate(head("labels"), raw), [[0.5, 0.75], [0.75, 0.5], [0.5, 0.75]], rtol=1e-6)
    # Span: over the three tokens, for start and end each: 1 3 1 and 3 1 3 in parts of 5 and 7.
    expected = [[1 / 5, 3 / 7], [3 / 5, 1 / 7], [1 / 5, 3 / 7]]
    np.testing.assert_allclose(activate(head("span"), raw), expected, rtol=1e-6)
    np.testing.assert_array_equal(activate(head("value"), raw), raw)
    np.testing.assert_array_equal(activate(head("vector"), raw), raw)


@pytest.mark.parametrize("objective", ["classes", "labels", "span", "value", "vector"])
def test_activate_keeps_the_shape(objective: str) -> None:
    for shape in ((4, 2), (3, 4, 2)):
        assert activate(head(objective), np.zeros(shape, dtype=np.float32)).shape == shape


@given(ONE_LABEL | many_labels() | REGRESSION | embeddings())
def test_a_task_survives_its_json(task: Task) -> None:
    record = json.loads(json.dumps(task.to_json()))
    assert record["kind"] == task.kind
    assert type(task).from_json(record) == task
    assert task_of(record) == task
    assert isinstance(task, task_class(task.kind))


def test_a_task_of_the_future_is_refused() -> None:
    with pytest.raises(BundleError, match=r"telepathy.*upgrade"):
        task_of({"kind": "telepathy"})


def test_options_can_be_set_and_others_cannot() -> None:
    task = TextClassification(("a", "b"), multi_label=True)
    assert task.with_options({"thresholds": [0.1, 0.9]}) == TextClassification(
        ("a", "b"), multi_label=True, thresholds=(0.1, 0.9)
    )
    assert Embedding(8).with_options({"truncate": 4, "prompt": "query: "}) == Embedding(8, truncate=4, prompt="query: ")
    with pytest.raises(SettingsError, match="has no option 'labels'; known: thresholds, temperature"):
        task.with_options({"labels": ["c", "d"]})
    with pytest.raises(SettingsError, match="no option 'mean'; known: none"):
        Regression().with_options({"mean": 3.0})


def test_answers_become_plain_json() -> None:
    answers = [
        Classification("b", 0.75, {"a": 0.25, "b": 0.75}),
        Labels(("a",), {"a": 0.75, "b": 0.25}, True),
        Score(2.5),
        Vector(np.array([0.5, 0.25], dtype=np.float32)),
    ]
    assert json.loads(json.dumps(jsonable(answers))) == [
        {"label": "b", "score": 0.75, "scores": {"a": 0.25, "b": 0.75}, "truncated": False},
        {"labels": ["a"], "scores": {"a": 0.75, "b": 0.25}, "truncated": True},
        {"value": 2.5, "truncated": False},
        {"values": [0.5, 0.25], "truncated": False},
    ]


def test_a_pair_is_a_list_a_tuple_or_an_object() -> None:
    for given_ in (["a", "b"], ("a", "b"), {"text_pair": "b", "text": "a"}):
        assert parse_pair(given_, ("text", "text_pair")) == ("a", "b")
