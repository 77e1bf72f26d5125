"""What the answers of each task are as columns, in files and in batches of arrays."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from attar.export.bundle import write
from attar.runtime.errors import BundleError, DataError, SettingsError
from attar.runtime.jobs import Predictor, Settings, answer_file
from attar.runtime.jobs.columns import layout
from attar.runtime.model import Model, load
from attar.runtime.tasks.base import jsonable
from attar.runtime.tasks.classification import Classification, Labels, TextClassification
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.qa import Answer, Candidate, QuestionAnswering
from attar.runtime.tasks.regression import Regression, Score
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_student

TWO = {"a": 0.75, "b": 0.25}
BEST, NEXT = Candidate("it", 0.5, 3, 5), Candidate("us", 0.25, 7, 9)
MULTI = MultiTask((("mood", TextClassification(("a", "b"))), ("stars", Regression())))


@pytest.mark.parametrize(
    ("task", "answer", "columns"),
    [
        (
            TextClassification(("a", "b")),
            Classification("a", 0.75, TWO),
            {"label": "a", "score": 0.75, "truncated": False},
        ),
        (
            TextClassification(("a", "b"), top_k=1),
            Classification("a", 0.75, {"a": 0.75}, True),
            {"label": "a", "score": 0.75, "scores": [{"label": "a", "score": 0.75}], "truncated": True},
        ),
        (
            TextClassification(("a", "b"), multi_label=True),
            Labels(("a",), TWO),
            {
                "labels": ["a"],
                "scores": [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}],
                "truncated": False,
            },
        ),
        (Regression(), Score(3.5), {"value": 3.5, "truncated": False}),
        (
            QuestionAnswering(),
            Answer("it", 0.5, 3, 5, (BEST,)),
            {"answer": "it", "score": 0.5, "start": 3, "end": 5, "truncated": False},
        ),
        (
            QuestionAnswering(top_k=2),
            Answer("it", 0.5, 3, 5, (BEST, NEXT)),
            {
                "answer": "it",
                "score": 0.5,
                "start": 3,
                "end": 5,
                "truncated": False,
                "candidates": [
                    {"text": "it", "score": 0.5, "start": 3, "end": 5},
                    {"text": "us", "score": 0.25, "start": 7, "end": 9},
                ],
            },
        ),
        (
            MULTI,
            {"mood": Classification("a", 0.75, TWO), "stars": Score(3.5, True)},
            {
                "mood_label": "a",
                "mood_score": 0.75,
                "mood_truncated": False,
                "stars_value": 3.5,
                "stars_truncated": True,
            },
        ),
    ],
)
def test_an_answer_as_columns(task: Any, answer: Any, columns: dict[str, Any]) -> None:
    made = layout(task, "p_")
    (values,) = made.rows([answer])
    assert dict(zip((column.name for column in made.columns), values, strict=True)) == {
        f"p_{name}": value for name, value in columns.items()
    }


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for kind in ("token-classification", "question-answering", "embeddings"):
        write(make_student(folder / f"model-{kind}", kind=kind, layers=1), folder / kind, name=kind)
    return folder


TEXTS = ["The film zoqx was charming, w-x.y saw it", "We saw it. The plot was dull " * 12, "saw"]
QUESTIONS = [("what?", text) for text in TEXTS]


def rows(kind: str) -> list[dict[str, str]]:
    if kind != "question-answering":
        return [{"text": text} for text in TEXTS]
    return [{"question": question, "context": context} for question, context in QUESTIONS]


@pytest.mark.parametrize("kind", ["token-classification", "question-answering", "embeddings"])
def test_files_hold_what_the_model_says(bundles: Path, tmp_path: Path, kind: str) -> None:
    model = load(bundles / kind, threads=1)
    wanted = [jsonable(answer) for answer in model(QUESTIONS if kind == "question-answering" else TEXTS)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))
    for name in ("y.parquet", "y.jsonl"):
        answer_file(model, tmp_path / "x.jsonl", tmp_path / name, Settings(chunk=2))
    table = pq.read_table(tmp_path / "y.parquet")
    lines = [json.loads(line) for line in (tmp_path / "y.jsonl").read_text().splitlines()]
    assert table.to_pylist() == lines
    if kind == "token-classification":
        assert [row["entities"] for row in lines] == wanted and any(wanted)
    elif kind == "embeddings":
        assert str(table.schema.field("vector").type) == "list<element: float>"
        assert [row["vector"] for row in lines] == [answer["values"] for answer in wanted]
    else:
        assert [(row["answer"], row["score"]) for row in lines] == [(a["text"], a["score"]) for a in wanted]
        assert all(row["answer"] == row["context"][row["start"] : row["end"]] for row in lines)


# Batches of arrays.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("arrays") / "tiny")


def batch(*texts: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {"id": np.arange(len(texts)), "body": np.array(texts, dtype=object)}


def test_a_predictor_travels_and_answers(tiny: Path) -> None:
    predict = Predictor(str(tiny), column="body", threads=1)
    predict(batch("good"))  # what it has loaded stays behind
    packed = pickle.dumps(predict)
    assert len(packed) < 1000
    found = pickle.loads(packed)(batch("a good film", "the awful dull film", "fine great good"))
    assert list(found) == ["id", "body", "label", "score", "truncated"]
    assert found["id"].tolist() == [0, 1, 2]
    assert found["label"].tolist() == ["positive", "negative", "positive"]
    assert found["score"] == pytest.approx([0.7310586, 0.8807971, 0.9525741], abs=1e-6)
    assert (found["score"].dtype, found["truncated"].dtype) == (np.float64, np.bool_)


def test_an_empty_batch_has_the_same_columns(tiny: Path) -> None:
    found = Predictor(str(tiny), column="body", threads=1)(batch())
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        ["id", "body", "label", "score", "truncated"], 0
    )


def test_texts_of_fixed_width_are_texts(tiny: Path) -> None:
    found = Predictor(str(tiny), threads=1)({"text": np.array(["good", "dull"])})
    assert found["label"].tolist() == ["positive", "negative"]


def test_bad_rows_of_a_batch(tiny: Path) -> None:
    given = batch("good", None, float("nan"), " ", "dull")
    with pytest.raises(DataError, match="row 2 of the batch: the text in column 'body' is empty"):
        Predictor(str(tiny), "body", threads=1)(given)
    skipped = Predictor(str(tiny), "body", on_error="skip", threads=1)(given)
    assert (skipped["id"].tolist(), skipped["label"].tolist()) == ([0, 4], ["positive", "negative"])
    nulls = Predictor(str(tiny), "body", on_error="null", threads=1)(given)
    assert nulls["label"].tolist() == ["positive", None, None, None, "negative"]
    assert np.isnan(nulls["score"]).tolist() == [False, True, True, True, False]
    assert nulls["truncated"].tolist() == [False, None, None, None, False]


def test_what_a_predictor_refuses(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the batch: .*'text'.*\['id', 'body'\]"):
        Predictor(str(tiny), "text", threads=1)(batch("good"))
    with pytest.raises(SettingsError, match="the batch: has a column 'label' already"):
        Predictor(str(tiny), "body", threads=1)({**batch("good"), "label": np.array([1])})
    with pytest.raises(SettingsError, match="on_error must be one of"):
        Predictor(str(tiny), on_error="ignore")  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="every worker must see it at this path"):
        Predictor(str(tmp_path / "none"))(batch("good"))


def test_a_new_bundle_at_the_same_path_is_loaded(tmp_path: Path) -> None:
    predict = Predictor(str(make_tiny_bundle(tmp_path / "b")), "body", threads=1)
    assert predict(batch("good"))["label"].tolist() == ["positive"]
    make_tiny_bundle(tmp_path / "b", task=TextClassification(("bad", "good"), 16))
    assert predict(batch("good"))["label"].tolist() == ["good"]


def test_vectors_are_rows_and_entities_json(bundles: Path) -> None:
    model: Model = load(bundles / "embeddings", threads=1)
    found = Predictor(str(bundles / "embeddings"), on_error="null", threads=1)(
        {"text": np.array([*TEXTS, ""], dtype=object)}
    )
    assert found["vector"].dtype == np.float32
    assert (found["vector"][:-1] == np.array([answer.values for answer in model(TEXTS)])).all()
    assert np.isnan(found["vector"][-1]).all()
    tagged = Predictor(str(bundles / "token-classification"), threads=1, options={"aggregation": "first"})
    model = load(bundles / "token-classification", threads=1, options={"aggregation": "first"})
    entities = tagged({"text": np.array(TEXTS, dtype=object)})["entities"]
    assert [json.loads(each) for each in entities] == [jsonable(answer) for answer in model(TEXTS)]
