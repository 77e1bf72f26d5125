"""The verbs for parts of a run where only the data says what a model does: pairs, and embedders by scored pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.cli import main
from attar.distill.student import Student
from attar.runtime.bundle import Bundle
from attar.runtime.tasks.embeddings import Embedding
from tests.models import NOISE, make_checkpoint, make_student, sentences

Verb = Callable[..., dict[str, Any]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def verb(here: Path, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs a command that must work, and returns its JSON."""

    def run(*command: str) -> dict[str, Any]:
        assert main([*command, "--json"]) == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def scored(count: int = 120) -> str:
    """Pairs: a text and the same with some of its words replaced, scored by how many are left."""
    rows = []
    for i, text in enumerate(map(str, sentences(count).texts)):
        words, new = text.split(), i % 4
        other = [w if place >= new else NOISE[(i + place) % len(NOISE)] for place, w in enumerate(words)]
        rows.append({"sentence1": text, "sentence2": " ".join(other), "score": 1 - new / 4})
    return write("scored.jsonl", rows)


def asked(count: int = 120) -> str:
    """Pairs with a class."""
    found = sentences(count)
    rows = [
        {"sentence1": "how was it?", "sentence2": text, "label": label}
        for text, label in zip(found.texts, found.labels or (), strict=True)
    ]
    return write("asked.jsonl", rows)


def test_an_embedder_is_judged_by_scored_pairs_through_all_verbs(here: Path, verb: Verb) -> None:
    make_checkpoint(here / "embedder", kind="embeddings", layers=2)
    data = scored()
    records = verb("distill", "embedder", "--data", data, "--out", "student")
    assert records["steps"][0]["kept"]
    task = Student.load(here / "student").task
    assert isinstance(task, Embedding) and task.judged_by == "Spearman"
    assert verb("compress", "student", "--teacher", "embedder", "--data", data, "--out", "small")["steps"]
    gate = ["--teacher", "embedder", "--margin", "50", "--allow-failed-gate"]
    found = verb("export", "small", "--data", data, *gate, "--out", "bundle")
    assert found["gate"]["measure"] == "Spearman"
    first, same, other = attar.load(here / "bundle", threads=1)(["the film was dull", "the film was dull", "music"])
    assert first.similarity(same) > 0.99 > first.similarity(other)


@pytest.mark.parametrize("flags", [[], ["--int8"]], ids=["fp32", "int8"])
def test_an_embedder_is_converted_by_scored_pairs(here: Path, verb: Verb, flags: list[str]) -> None:
    make_checkpoint(here / "embedder", kind="embeddings", layers=1)
    found = verb("convert", "embedder", "--data", scored(), *flags, "--margin", "30", "--out", "bundle")
    assert found["gate"]["measure"] == "Spearman" and found["gate"]["verdict"] == "pass"
    assert found["gate"]["teacher"] > 50  # random weights know words, and the scores count them


def test_a_classifier_of_pairs_is_one_by_its_data(here: Path, verb: Verb) -> None:
    make_checkpoint(here / "model", kind="pairs", layers=2)
    data = asked()
    verb("distill", "model", "--data", data, "--out", "student")
    assert Student.load(here / "student").task.pairs
    verb("compress", "model", "--teacher", "model", "--data", data, "--out", "small")
    found = verb("export", "model", "--teacher", "model", "--data", data, "--margin", "30", "--out", "bundle")
    assert found["gate"]["difference"] == 0
    assert Bundle.read(here / "bundle").manifest.task.pairs
    answer = attar.load(here / "bundle", threads=1)(("how was it?", "the film was dull"))
    assert answer.label in ("negative", "positive")


def test_a_saved_student_of_single_texts_stays_one(here: Path, verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    make_student(here / "model", layers=1).save(here / "student")
    command = ["export", "student", "--teacher", "model", "--data", asked(), "--out", "bundle"]
    assert main(command) == 2
    assert "example 1 is a pair of texts, but the task reads single texts" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["question-answering", "pairs"])
def test_a_model_of_pairs_is_exported_without_data(here: Path, verb: Verb, kind: str) -> None:
    make_student(here / "model", kind=kind, layers=1).save(here / "student")
    found = verb("export", "student", "--out", "bundle")
    assert found["gate"] is None and found["parity"]["max_abs"] < 1e-4
    assert main(["verify", "bundle"]) == 0
