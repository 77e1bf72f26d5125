"""Every kind of task run end to end on a tiny encoder: from a data file to a gated bundle that answers, and cached."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attar
from attar.cli import main
from attar.distill.student import Student
from attar.export.onnx import to_files
from attar.pipeline import run as pipeline
from attar.runtime.bench.paired import Ratio
from attar.runtime.bundle import Bundle
from attar.runtime.model import Model
from attar.runtime.tasks.base import jsonable
from attar.runtime.tasks.classification import Classification, Labels, TextClassification
from attar.runtime.tasks.embeddings import Vector
from attar.runtime.tasks.qa import Answer
from attar.runtime.tasks.regression import Score
from attar.runtime.tasks.spans import words_of
from attar.runtime.tasks.tokens import Entity
from tests.models import NOISE, make_checkpoint, sentences, spans

TEST = 50
RECIPE = """
name = "tiny"

[data]
train = "{train}"
dev = 40
test = 50

[task]
{task}

[teacher]
model = "{base}"
epochs = 8
batch_size = 8
learning_rate = 2e-3
dropout = 0.0
max_length = 24
{teacher}

[gate]
margin = 40

[bench]
rounds = 2
texts = 16

[[step]]
use = "distill.distil"
layers = [2]
methods = [{{ use = "soft_targets" }}, {{ use = "hidden_states", match = [2] }}, {{ use = "labels", weight = 0.2 }}]
epochs = 6
batch_size = 8
learning_rate = 2e-3

[[step]]
use = "compress.prune.ffn"
keep = 0.5

[[step]]
use = "compress.quantize.int8"
schemes = ["per_token"]
texts = 32

[[step]]
use = "distill.calibrate"
"""

Row = dict[str, Any]
Ran = tuple[str, "Case", list[str], Path]
FILM = "The film was charming and gripping"
LONG = "The story was dull and bland. " + "we saw it last night with two friends then " * 12
QUESTION = "what was it that we saw?"  # longer than rows have room for: it is cut, in the benchmark too
SHORT = "who was it?"
NO_BENCH: dict[str, Any] = {
    "bench": {"systems": [], "ratios": [], "how": "not measured"}, "overhead": None, "p50_ms": None, "dev": None,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One kind of task: its data, its [task] and [teacher], and what is to come out."""

    row: Callable[[str, str], Row]
    judged: tuple[str, ...]
    measured: tuple[str, ...]
    answer: type
    inputs: tuple[Any, ...] = (FILM, LONG, "the plot")
    task: str = ""
    teacher: str = ""
    base: str = "base"


def tokens(text: str) -> Row:
    """Words and their tags: of the subject, and of the first adjective."""
    words, tags = words_of(text), []
    for start, end in words:
        inside = [(s, type_) for s, e, type_ in spans(text) if s < end and start < e]
        tags.append(f"{'B' if inside[0][0] == start else 'I'}-{inside[0][1]}" if inside else "O")
    return {"tokens": [text[start:end] for start, end in words], "tags": tags}


def question(text: str, label: str) -> Row:
    answer = {"text": text[: text.index(" was ")], "start": 0}
    return {"question": QUESTION, "context": text, "answers": [answer]}


def alike(text: str, label: str) -> Row:
    """A text, the same with words replaced, and the share of them that is left."""
    rng, words = random.Random(text), text.split()
    kept = [rng.random() < len(text) % 5 / 4 for _ in words]
    other = " ".join(w if k else rng.choice(NOISE) for w, k in zip(words, kept, strict=True))
    return {"sentence1": text, "sentence2": other, "score": sum(kept) / len(words)}


CASES = {
    "single label": Case(
        lambda text, label: {"text": text, "label": label}, ("accuracy",), ("accuracy",), Classification
    ),
    "multi-label": Case(
        lambda text, label: {"text": text, "label": [label, *(["plot"] if "plot" in text else [])]},
        ("micro F1",), ("micro F1", "exact match"), Labels,
    ),
    "pairs": Case(
        lambda text, label: {"sentence1": "how was it?", "sentence2": text, "label": label},
        ("accuracy",), ("accuracy",), Classification,
        inputs=(("how was it?", FILM), ("how was it?", LONG), ("a", "the plot")),
    ),
    "regression": Case(
        lambda text, label: {"text": text, "score": 3.0 + 2 * (label == "positive")},
        ("Spearman",), ("Spearman",), Score, task='kind = "regression"',
    ),
    "token-classification": Case(
        lambda text, label: tokens(text), ("entity F1",), ("entity F1",), list,
        task='kind = "token-classification"\nstride = 4',
    ),
    "question-answering": Case(
        question, ("F1",), ("F1", "exact match"), Answer,
        inputs=((SHORT, FILM), (SHORT, LONG), (QUESTION, "the plot")), task='kind = "question-answering"',
    ),
    "embeddings": Case(
        lambda text, label: {"text": text, "label": label}, ("recall@1",), ("recall@1", "recall@10"), Vector,
        task='kind = "embeddings"',
    ),
    "similarity": Case(
        alike, ("Spearman",), ("Spearman",), Vector,
        task='kind = "embeddings"', teacher="fine_tuned = true", base="embedder",
    ),
    "multi-task": Case(
        lambda text, label: {**tokens(text), "mood": label, "stars": 1 + 4 * (label == "positive")},
        ("mood: accuracy", "spans: entity F1", "rating: Spearman"),
        ("mood: accuracy", "spans: entity F1", "rating: Spearman"), dict,
        task=(
            'kind = "multi-task"\nheads.mood.kind = "text-classification"\n'
            'heads.spans = {kind = "token-classification", column = "tags", stride = 4}\n'
            'heads.rating = {kind = "regression", column = "stars"}'
        ),
    ),
}  # fmt: skip
BENCHED = ("token-classification", "question-answering")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrained encoders, as far as random weights are that: base/, and embedder/ that embeds already."""
    folder = tmp_path_factory.mktemp("bases")
    make_checkpoint(folder / "base", layers=2, trained=False)
    make_checkpoint(folder / "embedder", kind="embeddings", layers=2)
    return folder


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, bases: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The kind, its case, the command of its run, and the folder that a first run has filled."""
    name: str = request.param
    case, folder = CASES[name], tmp_path_factory.mktemp("run")
    found = sentences(180, seed=len(name))
    lines = [json.dumps(case.row(str(t), n)) for t, n in zip(found.texts, found.labels or (), strict=True)]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = RECIPE.format(train=folder / "train.jsonl", task=case.task, base=bases / case.base, teacher=case.teacher)
    (folder / "recipe.toml").write_text(recipe)
    command = ["run", str(folder / "recipe.toml"), "--out", str(folder / "out"), "--allow-failed-gate"]
    with pytest.MonkeyPatch.context() as patch:
        # Timings decide nothing here, and the benchmark starts processes: it is tried where rows are windows.
        patch.setattr("attar.pipeline.steps.speedup", lambda *_: Ratio(1.5, 1.4, 1.6, 11))
        if name != BENCHED[0]:
            # The plain export takes seconds too, and has a test of its own for every kind.
            patch.setattr(pipeline, "plain_files", lambda f, task: to_files(replace(Student.load(f), task=task)))
        if name not in BENCHED:
            patch.setattr(pipeline.Run, "measure", lambda *_: NO_BENCH)
        assert main(command) == 0
        yield name, case, command, folder / "out"


def leaves(answer: Any) -> list[Any]:
    """All that an answer holds, one after another."""
    if isinstance(answer, dict):
        return [x for key, value in answer.items() for x in (key, *leaves(value))]
    return [x for value in answer for x in leaves(value)] if isinstance(answer, list) else [answer]


def test_a_run_leaves_a_bundle_that_answers(run: Ran) -> None:
    name, case, _, out = run
    model = attar.load(out / "bundle", threads=1)
    answers = model(list(case.inputs))
    assert all(isinstance(answer, case.answer) for answer in answers)
    for given, together in zip(case.inputs, answers, strict=True):
        alone, batched = leaves(jsonable(model(given))), leaves(jsonable(together))
        assert [x for x in alone if not isinstance(x, float)] == [x for x in batched if not isinstance(x, float)]
        assert [x for x in alone if isinstance(x, float)] == pytest.approx(
            [x for x in batched if isinstance(x, float)], abs=1e-4
        )
    check(name, model, answers)
    assert main(["verify", str(out / "bundle")]) == 0


def check(name: str, model: Model, answers: list[Any]) -> None:
    """What answers of each kind promise."""
    first, long = answers[:2]
    if name in ("single label", "pairs"):
        assert sum(first.scores.values()) == pytest.approx(1, abs=1e-5)
        assert [a.truncated for a in answers] == [False, True, False]
    elif name == "multi-label":
        assert set(first.scores) == {"negative", "positive", "plot"}
        assert isinstance(model.task, TextClassification) and len(model.task.thresholds) == 3
    elif name == "regression":
        assert all(0 < a.value < 8 for a in answers) and long.truncated
    elif name == "question-answering":
        assert LONG[long.start : long.end] == long.text
        assert [a.truncated for a in answers] == [False, False, True]
        assert 0 < first.score <= 1
    elif name in ("embeddings", "similarity"):
        assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    elif name == "multi-task":
        assert [set(a) for a in answers] == [{"mood", "spans", "rating"}] * 3
        assert first["rating"].value > 3 > long["rating"].value and long["rating"].truncated
        assert long["mood"].truncated and not first["mood"].truncated
    for entity in first if name == "token-classification" else first["spans"] if name == "multi-task" else []:
        assert isinstance(entity, Entity) and FILM[entity.start : entity.end] == entity.text


def test_the_gate_and_the_report_judge_by_the_measures_of_the_task(run: Ran) -> None:
    name, case, _, out = run
    gate = Bundle.read(out / "bundle").manifest.gate
    assert gate is not None and gate["n"] <= TEST and gate["split"].startswith("test")
    judged = [v["measure"] for v in gate["measures"]] if len(case.judged) > 1 else [gate["measure"]]
    assert tuple(judged) == case.judged and gate["measure"] in case.judged
    report = json.loads((out / "report.json").read_text())
    assert set(report["measures"]) == {"teacher", "student"}
    assert all(set(found) == set(case.measured) for found in report["measures"].values())
    assert all(-100 <= x <= 100 for found in report["measures"].values() for x in found.values())
    shown = report["measures"]["student"]
    assert gate["student"] == pytest.approx(shown[gate["measure"]])
    assert [s["use"] for s in report["stages"]] == [
        "distill.distil", "compress.prune.ffn", "compress.quantize.int8", "distill.calibrate",
    ]  # fmt: skip
    # Only classifiers have scores to calibrate.
    assert report["stages"][3]["kept"] == (name in ("single label", "multi-label", "pairs"))
    assert ("ece" in report["confidence"]) == (name in ("single label", "pairs"))
    assert len(report["bench"]["systems"]) == (3 if name in BENCHED else 0)
    assert all(measure in (out / "report.html").read_text() for measure in case.judged)


def test_teacher_and_student_have_learnt(run: Ran) -> None:
    _, case, _, out = run
    found = json.loads((out / "report.json").read_text())["measures"]
    for measure in case.judged:
        # Chance is 50 for classes and 0 for the others; the random embedder only knows words.
        assert found["teacher"][measure] > (50 if case.teacher else 80)
        assert found["student"][measure] > (40 if case.teacher else 70)


def test_a_second_run_computes_nothing_and_leaves_the_same_bytes(
    run: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, command, out = run

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("this stage is cached and must not be computed again")

    before = {p.name: p.read_bytes() for p in (out / "bundle").iterdir()}
    for name in ("finetune", "Teacher", "prove", "bench", "plain_files"):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.setattr("attar.pipeline.steps.find", refuse)
    assert main([*command, "--json"]) == 0
    assert all(s["cached"] for s in json.loads(capsys.readouterr().out)["stages"])
    assert {p.name: p.read_bytes() for p in (out / "bundle").iterdir()} == before
