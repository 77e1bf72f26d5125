"""`attar bench --data` with bundles that do not read their examples as a plain classifier does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.cli import main
from attar.export.bundle import write
from tests.models import make_student

Row = Mapping[str, Any]
Bench = Callable[..., dict[str, Any]]

ALIKE = [
    {"text": "the film was dull", "text_pair": "the plot was dull"},
    {"text": "the film was dull", "text_pair": "we saw it"},
    {"text": "the cast", "text_pair": "the cast"},
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of random models by the names of their kinds."""
    folder = tmp_path_factory.mktemp("bundles")
    for kind in ("embeddings", "text-classification", "multi-task"):
        write(make_student(folder / f"model-{kind}", kind=kind, layers=1), folder / kind, name=kind)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines."""

    def writing(*rows: Row) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return writing


@pytest.fixture
def bench(bundles: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """What a quick benchmark finds."""

    def call(kind: str, *arguments: str) -> dict[str, Any]:
        code = main(["bench", str(bundles / kind), *arguments, "--rounds", "2", "--threads", "1", "--json"])
        found = capsys.readouterr()
        assert code == 0, found.err
        record: dict[str, Any] = json.loads(found.out)
        return record

    return call


def test_an_embedder_reads_pairs_one_by_one_and_is_judged_by_their_scores(
    bundles: Path, bench: Bench, data: Callable[..., str]
) -> None:
    model = attar.load(bundles / "embeddings", threads=1)
    cosines = [model(str(row["text"])).similarity(model(str(row["text_pair"]))) for row in ALIKE]
    # The scores in the order of the cosines: the ranks agree wholly.
    rows = [{**row, "score": cosine} for row, cosine in zip(ALIKE, cosines, strict=True)]
    found = bench("embeddings", "--data", data(*rows))
    assert found["texts"] == 4  # of the six texts two are there twice
    assert (found["accuracy"]["measure"], found["accuracy"]["bundle"]) == ("Spearman", 100.0)


def test_a_head_of_a_multi_task_model_has_its_own_label_column(bench: Bench, data: Callable[..., str]) -> None:
    row = {"tokens": ["The", "film", "was", "dull"], "spans": ["B-thing", "I-thing", "O", "B-view"], "mood": "negative"}
    found = bench("multi-task", "--data", data(row, row), "--label-column", "mood,spans")
    assert found["accuracy"]["measure"] == "sentiment: accuracy and spans: entity F1"
    unlabelled = {"tokens": row["tokens"]}
    assert bench("multi-task", "--data", data(unlabelled))["accuracy"] is None


def test_pairs_for_a_classifier_of_single_texts_are_refused(
    bundles: Path, data: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(bundles / "text-classification"), "--data", data(*ALIKE)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds pairs of texts, but the model reads single texts; choose one column with --text-column" in line
