"""A recipe run end to end on a tiny encoder, cached, killed, resumed and refused; and the verbs for its parts."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.cli import main
from attar.compress.prune import ffn
from attar.compress.quantize.plan import SCHEMES
from attar.distill.student import Student
from attar.pipeline import run as pipeline
from attar.runtime.bench.paired import Ratio
from attar.runtime.bundle import Bundle
from attar.runtime.data import Examples
from tests.models import LABELS, make_checkpoint, sentences

RECIPE = """
name = "tiny"

[data]
train = "{train}"
dev = 60
test = 120

[teacher]
model = "{base}"
epochs = 6
batch_size = 16
learning_rate = 2e-3
dropout = 0.0
max_length = 32

[gate]
margin = {margin}

[bench]
rounds = 2
texts = 16

[[step]]
use = "distill.distil"
layers = [2]
methods = [{{ use = "soft_targets" }}, {{ use = "hidden_states", match = [2] }}, {{ use = "labels", weight = 0.2 }}]
epochs = 3
batch_size = 16
learning_rate = 1e-3

[[step]]
use = "compress.prune.ffn"
keep = 0.5
max_loss = -100

[[step]]
use = "compress.quantize.int8"
texts = 64
"""


def write_csv(path: Path, examples: Examples) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(examples.texts, examples.labels or (), strict=True))
    return path


def contents(bundle: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(bundle.iterdir())}


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("this stage is cached and must not be computed again")


@pytest.fixture(autouse=True, scope="module")
def steady_clock() -> Iterator[None]:
    """Timings are pinned: the lineage records them, and bundles are compared byte for byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attar.pipeline.steps.speedup", lambda *_: Ratio(1.5, 1.4, 1.6, 11))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with base/, train.csv and recipe.toml."""
    folder = tmp_path_factory.mktemp("run")
    base = make_checkpoint(folder / "base", layers=2, trained=False)
    train = write_csv(folder / "train.csv", sentences(600))
    (folder / "recipe.toml").write_text(RECIPE.format(train=train, base=base, margin=30))
    (folder / "strict.toml").write_text(RECIPE.format(train=train, base=base, margin=0.001))
    return folder


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """The output folder of an uninterrupted run."""
    assert main(["run", str(place / "recipe.toml"), "--out", str(place / "out")]) == 0
    return place / "out"


@pytest.fixture
def no_bench(monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    """The benchmark starts processes and takes seconds; the finished run's numbers stand in for it."""
    stages = [json.loads(p.read_text()) for p in (finished / "stages").glob("bench-*/stage.json")]
    monkeypatch.setattr(pipeline.Run, "measure", lambda *_: stages[0]["result"])


def test_a_run_leaves_teacher_student_bundle_and_report(finished: Path) -> None:
    for name in ("teacher/config.json", "student/student.json", "bundle/manifest.json", "report.html"):
        assert (finished / name).is_file(), name
    report = json.loads((finished / "report.json").read_text())
    assert report["gate"]["verdict"] == "pass"
    assert report["teacher"]["test"] > 90
    assert report["bench"] and report["overhead"]
    assert not [p for p in finished.rglob(".*") if p.suffix in {".part", ".old"}]


def test_the_bundle_answers(finished: Path) -> None:
    model = attar.load(finished / "bundle")
    assert [a.label for a in model(["The film was charming", "The plot was dull"])] == ["positive", "negative"]
    assert Bundle.read(finished / "bundle").manifest.gate is not None
    assert main(["verify", str(finished / "bundle")]) == 0


def test_a_step_that_costs_too_much_is_dropped_with_its_numbers(finished: Path) -> None:
    distil, prune, quantize = json.loads((finished / "report.json").read_text())["stages"]
    assert (distil["kept"], prune["kept"], quantize["kept"]) == (True, False, True)
    assert "points on dev, more than its share of -100" in prune["reason"]
    assert 0 <= prune["score"] <= 100 and prune["speedup"]["ratio"] == 1.5
    assert prune["parameters"] < distil["parameters"] == quantize["parameters"]
    student = Student.load(finished / "student")
    assert [s["use"] for s in student.lineage] == ["distill.distil", "compress.quantize.int8"]


def test_a_second_run_computes_nothing(
    place: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished / "bundle")
    for name in ("finetune", "Teacher", "prove", "bench", "plain_files"):
        monkeypatch.setattr(pipeline, name, refuse)
    monkeypatch.setattr("attar.pipeline.steps.find", refuse)
    assert main(["run", str(place / "recipe.toml"), "--out", str(finished), "--json"]) == 0
    assert all(s["cached"] for s in json.loads(capsys.readouterr().out)["stages"])
    assert contents(finished / "bundle") == before


def test_a_killed_run_resumes_to_the_same_bytes(
    place: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_bench: None
) -> None:
    command = ["run", str(place / "recipe.toml"), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:

        def killed(*_: object) -> Student:
            raise KeyboardInterrupt

        patch.setattr(ffn, "apply", killed)
        assert main(command) == 130
    stages = {p.name for p in (tmp_path / "out/stages").iterdir()}
    assert any(s.startswith("01-distill.distil") for s in stages) and not any(s.startswith("02-") for s in stages)
    assert not [s for s in stages if s.startswith(".")] and not (tmp_path / "out/bundle").exists()
    monkeypatch.setattr(pipeline, "finetune", refuse)
    monkeypatch.setattr("attar.distill.distil.train", refuse)
    assert main(command) == 0
    assert contents(tmp_path / "out/bundle") == contents(finished / "bundle")


def test_a_failed_gate_writes_a_report_and_no_bundle_unless_allowed(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_bench: None
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "stages", out / "stages")
    command = ["run", str(place / "strict.toml"), "--out", str(out)]
    assert main(command) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("attar: error: no bundle was written")
    assert json.loads((out / "report.json").read_text())["gate"]["verdict"] != "pass"
    assert (out / "report.html").is_file() and not (out / "bundle").exists()
    assert not list((out / "stages").glob("final-*/bundle"))
    assert main([*command, "--allow-failed-gate"]) == 0
    gate = Bundle.read(out / "bundle").manifest.gate
    assert gate is not None and gate["verdict"] != "pass"
    assert attar.load(out / "bundle")("The film was charming").label == "positive"


def test_a_failed_gate_says_that_the_bundle_there_is_an_earlier_one(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_bench: None
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    assert main(["run", str(place / "strict.toml"), "--out", str(out)]) == 2
    assert f"{out / 'bundle'} is of an earlier run" in capsys.readouterr().err
    assert contents(out / "bundle") == contents(finished / "bundle")


def test_the_first_step_may_be_dropped_too(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_bench: None
) -> None:
    shutil.copytree(finished / "stages", tmp_path / "out/stages")
    text = (place / "recipe.toml").read_text().replace("layers = [2]", "layers = [2]\nmax_loss = -100")
    (tmp_path / "recipe.toml").write_text(text)
    assert main(["run", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "out"), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["stages"][0]
    assert not first["kept"] and "more than its share of -100" in first["reason"]


def test_distill_halves_the_layers(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, out = finished / "teacher", tmp_path / "s"
    command = ["distill", str(teacher), "--data", str(place / "train.csv"), "--out", str(out), "--json"]
    assert main(command) == 0
    record = json.loads(capsys.readouterr().out)["steps"][0]
    assert record["settings"]["layers"] == record["settings"]["methods"][-1]["match"] == [2]
    student = Student.load(out)
    assert len(student.encoder.layers) == 1 and student.task.labels == LABELS
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_distill_follows_the_recipe_up_to_its_first_compress_step(place: Path, finished: Path, tmp_path: Path) -> None:
    dev = write_csv(tmp_path / "dev.csv", sentences(60, seed=9))
    command = ["distill", str(finished / "teacher"), "--data", str(place / "train.csv"), "--dev", str(dev)]
    assert main([*command, "--recipe", str(place / "recipe.toml"), "--out", str(tmp_path / "s")]) == 0
    assert [s["use"] for s in Student.load(tmp_path / "s").lineage] == ["distill.distil"]
    assert main([*command, "--recipe", str(place / "recipe.toml"), "--out", str(tmp_path / "s")]) == 0


def test_compress_drops_what_costs_too_much_and_quantizes(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = str(finished / "teacher")
    command = ["compress", teacher, "--teacher", teacher, "--data", str(place / "train.csv")]
    assert main([*command, "--recipe", str(place / "recipe.toml"), "--out", str(tmp_path / "s")]) == 0
    prune, quantize, last = capsys.readouterr().out.splitlines()
    assert prune.startswith("01-compress.prune.ffn: dropped") and "more than its share of -100" in prune
    assert quantize.startswith("02-compress.quantize.int8: kept")
    assert last == f"student: {tmp_path / 's'}"
    assert Student.load(tmp_path / "s").plan is not None
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_export_without_and_with_the_gate(
    place: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = str(finished / "student")
    assert main(["export", student, "--out", str(tmp_path / "bare"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gate"] is None
    test = write_csv(tmp_path / "test.csv", sentences(150, seed=5))
    command = ["export", student, "--data", str(test), "--teacher", str(finished / "teacher")]
    assert main([*command, "--margin", "30", "--out", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["gate"]["verdict"] == "pass" and found["gate"]["split"] == str(test)
    assert attar.load(tmp_path / "b")("The film was charming").label == "positive"
    assert main([*command, "--margin", "0.001", "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()
    assert main([*command[:4], "--out", str(tmp_path / "none")]) == 2  # data without a teacher


@pytest.mark.parametrize("numbers", [False, True])
def test_convert_int8_judges_on_texts_that_chose_nothing(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], numbers: bool
) -> None:
    examples = sentences(180, seed=7)
    if numbers:
        labels = tuple(str(LABELS.index(label)) for label in examples.labels or ())
        examples = Examples(examples.texts, labels, "numbers")
    data = write_csv(tmp_path / "dev.csv", examples)
    command = ["convert", str(finished / "teacher"), "--data", str(data), "--int8", "--margin", "30"]
    assert main([*command, "--max-length", "16", "--out", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    different = len(set(examples.texts))
    assert found["gate"]["n"] <= different - round(found["gate"]["n"] / 2) + 1
    assert found["gate"]["teacher"] > 90 and found["scheme"].startswith("int8")
    assert set(found["steps"][0]["settings"]["schemes"]) == set(SCHEMES)
    model = attar.load(tmp_path / "b")
    assert model("The film was charming").label == "positive" and model("the " * 20).truncated
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "dev.csv"]


def test_convert_fp32_keeps_every_bit_of_accuracy(finished: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "dev.csv", sentences(150, seed=8))
    command = ["convert", str(finished / "teacher"), "--data", str(data), "--margin", "3"]
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    manifest = Bundle.read(tmp_path / "b").manifest
    assert manifest.gate is not None and manifest.gate["difference"] == 0
    assert (manifest.scheme, manifest.name) == ("fp32", "teacher")
