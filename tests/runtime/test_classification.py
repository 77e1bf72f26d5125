"""Text classification: logits to labels, labels to targets, and what each example counts for."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Head, jsonable
from attar.runtime.tasks.classification import Classification, Labels, TextClassification
from attar.runtime.tokenizer import Encoded

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sequence_tasks.json").read_text())
AB = TextClassification(("a", "b"))
MANY = TextClassification(("a", "b", "c"), multi_label=True)


def rows(count: int, cut: bool = False) -> Encoded:
    return Encoded([[1]] * count, [cut] * count)


def answered(task: TextClassification, logits: Any, cut: bool = False) -> list[Any]:
    array = np.array(logits, dtype=np.float32)
    return task.answers(rows(len(array), cut), {"logits": array})


def some_logits(labels: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, (4, labels), elements=st.floats(-30, 30, width=32))


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_scores_are_those_of_the_transformers_pipeline(kind: str) -> None:
    golden = GOLDEN[kind]
    task = TextClassification(tuple(sorted(golden["scores"][0])), multi_label=kind == "multi")
    for answer, expected in zip(answered(task, golden["logits"]), golden["scores"], strict=True):
        assert answer.scores == pytest.approx(expected, abs=1e-6)
        if kind == "multi":
            assert answer.labels == tuple(sorted(name for name, p in expected.items() if p >= 0.5))
        else:
            assert answer.label == max(expected, key=expected.get)
            assert answer.score == answer.scores[answer.label]


def test_an_answer_says_that_its_text_was_cut() -> None:
    assert answered(AB, [[0, 0]], cut=True)[0].truncated
    assert not answered(AB, [[0, 0]])[0].truncated
    assert answered(MANY, [[0, 0, 0]], cut=True)[0].truncated


def test_answers_have_short_reprs() -> None:
    assert (
        repr(Classification("a", 0.756, {"a": 0.756}, True)) == "Classification(label='a', score=0.76, truncated=True)"
    )
    assert repr(Labels(("a",), {"a": 0.756, "b": 0.1})) == "Labels({'a': 0.76})"
    assert repr(Labels((), {"a": 0.1}, True)) == "Labels({}, truncated=True)"


def test_temperature_by_hand() -> None:
    # exp(2 ln 3 / 2) = 3, so 3 of 4 parts; a sigmoid of ln 3 is 3/4 too.
    logits = [[2 * math.log(3), 0.0]]
    one = answered(TextClassification(("a", "b"), temperature=2), logits)[0]
    assert one.scores == pytest.approx({"a": 0.75, "b": 0.25}, abs=1e-6)
    several = answered(TextClassification(("a", "b"), multi_label=True, temperature=2), logits)[0]
    assert several.scores == pytest.approx({"a": 0.75, "b": 0.5}, abs=1e-6)


@given(some_logits(3), st.floats(0.001, 1000))
def test_temperature_does_not_change_the_label(logits: np.ndarray, temperature: float) -> None:
    names = ("x", "y", "z")
    cool, hot = (answered(TextClassification(names, temperature=t), logits) for t in (1.0, temperature))
    assert [a.label for a in cool] == [a.label for a in hot]


@given(some_logits(3), st.permutations(range(3)), st.booleans())
def test_the_order_of_the_labels_does_not_matter(logits: np.ndarray, order: list[int], several: bool) -> None:
    names = ("x", "y", "z")
    before = answered(TextClassification(names, multi_label=several), logits)
    after = answered(TextClassification(tuple(names[i] for i in order), multi_label=several), logits[:, order])
    for one, other in zip(before, after, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)
        if several:
            assert set(one.labels) == set(other.labels)
        else:
            assert other.scores[one.label] == pytest.approx(other.score, abs=1e-6)  # ties may go either way


@given(some_logits(3), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_a_label_is_given_from_its_threshold_on(logits: np.ndarray, thresholds: list[float]) -> None:
    task = TextClassification(("x", "y", "z"), multi_label=True, thresholds=tuple(thresholds))
    for answer in answered(task, logits):
        for name, least in zip(task.labels, thresholds, strict=True):
            assert (name in answer.labels) == (answer.scores[name] >= least)


def test_thresholds_by_hand() -> None:
    log3 = math.log(3)  # sigmoids 0.75, 0.5, 0.25
    assert answered(MANY, [[log3, 0, -log3]])[0].labels == ("a", "b")
    strict = MANY.with_options({"thresholds": [0.8, 0.4, 0.2]})
    assert answered(strict, [[log3, 0, -log3]])[0].labels == ("b", "c")
    assert answered(MANY.with_options({"thresholds": [0, 0, 1]}), [[-50, -50, 50]])[0].labels == ("a", "b", "c")
    assert answered(MANY, [[-9, -9, -9]])[0].labels == ()


def test_extreme_logits_give_certain_answers() -> None:
    huge = [[1e30, -1e30], [-65504, 65504]]
    assert [a.score for a in answered(TextClassification(("a", "b"), temperature=0.001), huge)] == [1.0, 1.0]
    both = TextClassification(("a", "b"), multi_label=True, temperature=0.001)
    assert [a.labels for a in answered(both, huge)] == [("a",), ("b",)]


def test_heads_gates_and_pairs() -> None:
    assert AB.heads == (Head("logits", 2, "first", "classes"),)
    assert MANY.heads == (Head("logits", 3, "first", "labels"),)
    assert (AB.gates, MANY.gates) == (("accuracy",), ("micro F1",))
    assert not AB.pairs and TextClassification(("a", "b"), pair=True).pairs


def test_targets_by_hand() -> None:
    one = AB.targets(rows(3), ["b", "a", "b"])["logits"]
    assert one.dtype == np.int64
    np.testing.assert_array_equal(one, [1, 0, 1])
    several = MANY.targets(rows(3), [("c", "a"), (), "b"])["logits"]
    assert several.dtype == np.float32
    np.testing.assert_array_equal(several, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_names_pass_and_class_ids_are_translated() -> None:
    assert AB.named(["b", "a"], ["x", "y"]) == ("b", "a")
    assert AB.named(["1", "0"], ["x", "y"]) == ("b", "a")
    assert MANY.named([("2", "0"), ()], ["x", "y"]) == (("a", "c"), ())
    assert AB.named((), ()) == ()
    # Names that look like ids are names.
    assert TextClassification(("1", "0")).named(["0", "1"], ["x", "y"]) == ("0", "1")


def test_many_labels_come_in_the_order_of_the_task_and_once() -> None:
    assert MANY.named([["c", "a", "c"], "b"], ["x", "y"]) == (("a", "c"), ("b",))


@given(st.lists(st.lists(st.sampled_from("abc")).map(tuple), max_size=6))
def test_naming_twice_changes_nothing(labels: list[tuple[str, ...]]) -> None:
    texts = ["x"] * len(labels)
    assert MANY.named(MANY.named(labels, texts), texts) == MANY.named(labels, texts)


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        (AB, ["a", "joy"], r"'joy' was never seen in training \(known: a, b\)"),
        (AB, ["a", "0"], "'0' was never seen"),
        (AB, ["2"], "'2' was never seen"),
        (MANY, [("a", "joy")], "'joy' was never seen"),
        (AB, [("a", "b")], r"\('a', 'b'\) is not the name of one class"),
        (AB, [3.5], "3.5 is not the name of one class"),
        (MANY, [("a", None)], "is not names of classes"),
        (TextClassification(tuple("abcdefghijkl")), ["z"], r"known: a, b, c, d, e, f, g, h, i, j, \.\.\.\)"),
        (TextClassification(tuple("abcdefghij")), ["z"], r"h, i, j\)"),
    ],
)
def test_a_label_that_cannot_be_used_is_named(task: TextClassification, labels: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        task.named(labels, ["x"] * len(labels))
    with pytest.raises(DataError, match=words):
        task.targets(rows(len(labels)), labels)


def test_single_texts_and_pairs_are_not_mixed_up() -> None:
    both = TextClassification(("a", "b"), pair=True)
    assert both.named(["a"], [("x", "y")]) == ("a",)
    with pytest.raises(DataError, match="example 2 is a single text, but the task reads pairs of texts"):
        both.named(["a", "b"], [("x", "y"), "x"])
    with pytest.raises(DataError, match="example 1 is a pair of texts, but the task reads single texts"):
        AB.named(["a"], [("x", "y")])


def test_accuracy_counts_each_example() -> None:
    answers = [Classification(name, 1.0, {}) for name in "aab"]
    found = AB.statistics(lambda texts: answers, ["x", "y", "z"], ["a", "b", "b"])
    assert list(found) == ["accuracy"] and found["accuracy"].dtype == bool
    np.testing.assert_array_equal(found["accuracy"], [True, False, True])


def test_counts_by_hand() -> None:
    answers = [Labels(names, {}) for names in (("a", "b"), (), ("c",), ())]
    labels = [("a", "c"), ("a",), ("c",), ()]
    found = MANY.statistics(lambda texts: answers, ["x"] * 4, labels)
    # right, given, true
    np.testing.assert_array_equal(found["micro F1"], [[1, 2, 2], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(found["exact match"], [False, False, True, True])


def test_counts_add_up_to_what_scikit_learn_finds() -> None:
    golden = GOLDEN["counts"]
    names = tuple("abcde")

    def chosen(rows: list[list[int]]) -> list[tuple[str, ...]]:
        return [tuple(n for n, held in zip(names, row, strict=True) if held) for row in rows]

    task = TextClassification(names, multi_label=True)
    answers = [Labels(held, {}) for held in chosen(golden["given"])]
    found = task.statistics(lambda texts: answers, ["x"] * len(answers), chosen(golden["true"]))
    right, predicted, actual = found["micro F1"].sum(axis=0)
    assert 2 * right / (predicted + actual) == pytest.approx(golden["micro F1"])
    assert found["exact match"].mean() == pytest.approx(golden["exact match"])


def test_a_perfect_model_is_always_right() -> None:
    logits = {"x": [3, -3, -3], "y": [-3, 3, 3]}

    def answer(texts: Any) -> list[Any]:
        return answered(MANY, [logits[t] for t in texts])

    found = MANY.statistics(answer, ["x", "y"], [("a",), ("c", "b")])
    assert found["exact match"].all()
    np.testing.assert_array_equal(found["micro F1"], [[1, 1, 1], [2, 2, 2]])


def test_a_task_is_read_off_its_training_labels() -> None:
    assert TextClassification.from_labels(["no", "yes", "no"], ["x", "y", "z"], 64) == TextClassification(
        ("no", "yes"), 64
    )
    pairs = [("x", "y"), ("y", "z")]
    assert TextClassification.from_labels(["no", "yes"], pairs) == TextClassification(("no", "yes"), pair=True)
    found = TextClassification.from_labels([("b", "a"), (), "c"], ["x", "y", "z"])
    assert found == TextClassification(("a", "b", "c"), multi_label=True)
    assert TextClassification.from_labels([("spam",), ()], ["x", "y"]).labels == ("spam",)


@pytest.mark.parametrize(
    ("labels", "texts", "words"),
    [
        (["a", "a"], ["x", "y"], r"has 1 label\(s\); a classifier needs examples of at least two"),
        ([], [], r"has 0 label\(s\)"),
        ([(), ()], ["x", "y"], r"has 0 label\(s\); a classifier needs examples of at least one"),
        ([1.5, 2.5], ["x", "y"], "1.5 is not the name of one class"),
        (["a", "b"], [("x", "y"), "z"], "example 2 is a single text"),
    ],
)
def test_training_labels_that_teach_nothing(labels: list[Any], texts: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        TextClassification.from_labels(labels, texts)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"labels": ("a",)}, DataError, "at least two different labels"),
        ({"labels": ("a", "a")}, DataError, "at least two different labels"),
        ({"labels": (), "multi_label": True}, DataError, "at least one label"),
        ({"labels": ("a", "a"), "multi_label": True}, DataError, "each once"),
        ({"thresholds": (0.5, 0.5)}, SettingsError, "thresholds are for multi-label"),
        ({"thresholds": (0.5,), "multi_label": True}, SettingsError, "1 thresholds for 2 labels"),
        ({"thresholds": (0.5, 1.5), "multi_label": True}, SettingsError, "between 0 and 1"),
        ({"thresholds": (0.5, math.nan), "multi_label": True}, SettingsError, "between 0 and 1"),
        ({"thresholds": 0.5, "multi_label": True}, SettingsError, "must be a list"),
        ({"thresholds": ("low", "high"), "multi_label": True}, SettingsError, "must be a list of numbers"),
        ({"temperature": 0}, SettingsError, "temperature must be between"),
        ({"temperature": -1.0}, SettingsError, "temperature must be between"),
        ({"temperature": math.nan}, SettingsError, "temperature must be between"),
        ({"temperature": math.inf}, SettingsError, "temperature must be between"),
        ({"temperature": "warm"}, SettingsError, "not 'warm'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TextClassification(**{"labels": ("a", "b"), **settings})


def test_numbers_of_numpy_can_be_given_and_saved() -> None:
    task = TextClassification(
        ("a", "b"), multi_label=True, thresholds=tuple(np.float32([0.25, 0.5])), temperature=np.float32(2)
    )
    assert json.loads(json.dumps(task.to_json()))["thresholds"] == [0.25, 0.5]


def test_the_record_of_an_older_bundle_is_read() -> None:
    record = {"kind": "text-classification", "labels": ["a", "b"], "max_length": 16}
    assert TextClassification.from_json(record) == TextClassification(("a", "b"), 16)


def test_top_k_shows_the_highest_scores_first() -> None:
    task = TextClassification(("a", "b", "c"))
    logits = np.log(np.array([[0.2, 0.5, 0.3]], dtype=np.float32))
    everything, two = (
        t.answers(Encoded([[1]], [False]), {"logits": logits})[0] for t in (task, task.with_options({"top_k": 2}))
    )
    assert list(everything.scores) == ["a", "b", "c"]
    assert list(two.scores) == ["b", "c"] and (two.label, two.score) == (everything.label, everything.score)
    for wrong in (-1, 1.5, "all", True):
        with pytest.raises(SettingsError, match="top_k must be a number of labels"):
            task.with_options({"top_k": wrong})


def test_scores_are_a_read_only_mapping() -> None:
    task = TextClassification(("a", "b", "c"))
    [answer] = task.answers(Encoded([[1]], [False]), {"logits": np.log(np.array([[1, 2, 5]], np.float32))})
    scores = answer.scores
    assert dict(scores) == pytest.approx({"a": 0.125, "b": 0.25, "c": 0.625})
    assert scores == dict(scores) and len(scores) == 3 and repr(scores) == repr(dict(scores))
    assert list(scores.items()) == list(zip(scores, scores.values(), strict=True))
    assert pickle.loads(pickle.dumps(answer)) == answer and json.loads(json.dumps(jsonable(answer)))["scores"] == scores
    with pytest.raises(KeyError, match="d"):
        scores["d"]
    with pytest.raises(TypeError):
        scores["a"] = 1.0
