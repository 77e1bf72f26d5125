"""The [task] table: what it may say, and the task that it makes with the training data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.pipeline.tasks import build, parse_task
from attar.runtime.data import Examples
from attar.runtime.errors import ModelError, SettingsError
from attar.runtime.tasks import KINDS
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tasks.regression import Regression
from attar.runtime.tasks.tokens import TokenClassification

TEXTS = ("to Bonn", "stay here", "from Ulm")
SPANS = (((3, 7, "city"),), (), ((5, 8, "city"),))
INTENTS = ("go", "stay", "go")
PAIRS = (("a cat", "a kitten"), ("a cat", "a car"), ("a dog", "a hound"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model folder, as far as a task looks into it."""
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 24}))
    return tmp_path


def made(base: Path, table: dict[str, Any], texts: tuple[Any, ...], labels: tuple[Any, ...] | None) -> Task:
    return build(parse_task(table), Examples(texts, labels, "made up"), 64, base)


def test_classes_are_those_of_the_data(base: Path) -> None:
    assert made(base, {}, TEXTS, INTENTS) == TextClassification(("go", "stay"), 64)
    several = made(base, {"kind": "text-classification"}, TEXTS, (("go", "far"), (), ("go",)))
    assert several == TextClassification(("far", "go"), 64, True)
    pairs = made(base, {}, PAIRS, INTENTS)
    assert pairs == TextClassification(("go", "stay"), 64, False, True)


def test_regression_knows_mean_and_deviation(base: Path) -> None:
    # Mean 2; deviations -1, -1 and 2, so the variance is 6 / 3.
    task = made(base, {"kind": "regression"}, TEXTS, (1.0, 1.0, 4.0))
    assert isinstance(task, Regression)
    assert (task.max_length, task.pair, task.mean) == (64, False, 2.0)
    assert task.scale == pytest.approx(2**0.5)


def test_tags_are_those_of_the_data(base: Path) -> None:
    task = made(base, {"kind": "token-classification"}, TEXTS, SPANS)
    assert isinstance(task, TokenClassification)
    assert task.tags == ("O", "B-city", "I-city")
    assert (task.max_length, task.stride) == (64, 16)
    other = {"kind": "token-classification", "scheme": "BIOES", "stride": 4, "aggregation": "simple"}
    task = made(base, other, TEXTS, SPANS)
    assert isinstance(task, TokenClassification)
    assert task.tags == ("O", "B-city", "I-city", "E-city", "S-city")
    assert (task.stride, task.aggregation) == (4, "simple")


def test_question_answering_takes_its_settings(base: Path) -> None:
    answers = ((("cat", 2),),) * 3
    task = made(base, {"kind": "question-answering"}, PAIRS, answers)
    assert isinstance(task, QuestionAnswering)
    assert (task.max_length, task.stride) == (64, 21)
    task = made(base, {"kind": "question-answering", "stride": 8, "max_answer": 5}, PAIRS, answers)
    assert isinstance(task, QuestionAnswering)
    assert (task.stride, task.max_answer) == (8, 5)


@pytest.mark.parametrize(
    ("texts", "labels", "given", "judged_by"),
    [
        (TEXTS, INTENTS, {}, "recall@1"),
        (PAIRS, (0.9, 0.1, 0.8), {}, "Spearman"),
        (TEXTS, None, {}, "recall@1"),
        (TEXTS, INTENTS, {"judged_by": "Spearman"}, "Spearman"),
        (PAIRS, (0.9, 0.1, 0.8), {"judged_by": "recall@1"}, "recall@1"),
    ],
    ids=["classes", "scores", "unlabelled", "asked for Spearman", "asked for recall"],
)
def test_embeddings_are_judged_by_what_their_labels_are(
    base: Path, texts: tuple[Any, ...], labels: tuple[Any, ...] | None, given: dict[str, str], judged_by: str
) -> None:
    task = made(base, {"kind": "embeddings", **given}, texts, labels)
    assert isinstance(task, Embedding)
    assert task.gates == (judged_by,)
    assert (task.dimensions, task.max_length) == (24, 64)


def test_embeddings_are_as_wide_as_the_encoder(base: Path) -> None:
    (base / "config.json").write_text(json.dumps({"dim": 40}))  # as DistilBERT calls it
    task = made(base, {"kind": "embeddings", "pooling": "cls", "truncate": 8, "prompt": "query: "}, TEXTS, INTENTS)
    assert task == Embedding(40, 64, pooling="cls", truncate=8, prompt="query: ")
    with pytest.raises(ModelError, match=r"no config\.json"):
        made(base / "absent", {"kind": "embeddings"}, TEXTS, INTENTS)


def test_heads_read_their_own_column_of_the_labels(base: Path) -> None:
    heads = {
        "intent": {"kind": "text-classification"},
        "slots": {"kind": "token-classification", "column": "tags", "scheme": "plain"},
        "mood": {"kind": "regression", "column": "rating"},
    }
    table = {"kind": "multi-task", "heads": heads}
    assert parse_task(table).columns == (
        ("intent", "text-classification", "intent"),
        ("slots", "token-classification", "tags"),
        ("mood", "regression", "rating"),
    )
    task = made(base, table, TEXTS, tuple(zip(INTENTS, SPANS, (1.0, 3.0, 5.0), strict=True)))
    assert isinstance(task, MultiTask)
    parts = dict(task.parts)
    assert list(parts) == ["intent", "slots", "mood"]
    assert parts["intent"] == TextClassification(("go", "stay"), 64)
    assert isinstance(parts["slots"], TokenClassification) and parts["slots"].tags == ("O", "city")
    assert isinstance(parts["mood"], Regression) and parts["mood"].mean == 3.0


TWO = {"a": {"kind": "regression"}, "b": {"kind": "regression"}}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "poetry"}, rf"\[task\] kind 'poetry' is unknown; known: {', '.join(KINDS)}"),
        ({"stride": 8}, r"of kind text-classification has no setting 'stride'; known: kind$"),
        ({"kind": "regression", "heads": TWO}, r"of kind regression has no setting 'heads'; known: kind$"),
        ({"kind": "embeddings", "pool": "cls"}, "no setting 'pool'; known: kind, pooling, truncate, .*judged_by"),
        ({"kind": "question-answering", "scheme": "BIO"}, "no setting 'scheme'; known: kind, stride, max_answer"),
        ({"kind": "multi-task"}, r"at least two tables like \[task\.heads\.intent\]"),
        ({"kind": "multi-task", "heads": {"a": {"kind": "regression"}}}, "at least two tables"),
        ({"kind": "multi-task", "heads": ["a", "b"]}, "at least two tables"),
        ({"kind": "multi-task", "heads": {**TWO, "b": {}}}, r"\[task\.heads\.b\] needs a kind; known: text-class"),
        ({"kind": "multi-task", "heads": {**TWO, "b": {"kind": "embeddings"}}}, r"\[task\.heads\.b\] needs a kind"),
        (
            {"kind": "multi-task", "heads": {**TWO, "b": {"kind": "token-classification", "tags": "x"}}},
            r"\[task\.heads\.b\] of kind token-classification has no setting 'tags'; known: kind, stride, aggregation",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_what_is_known(table: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_task(table)
