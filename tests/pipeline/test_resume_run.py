"""A run that is killed in the middle of a training goes on there; what a run warns of, and never fails by."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.distill import resume
from attar.pipeline.html import render
from attar.pipeline.progress import Console
from attar.pipeline.remarks import below_student, no_better_than_prior, remarks
from attar.pipeline.report import Report, table
from attar.pipeline.stages import Stages
from attar.runtime.data import Examples
from attar.runtime.tasks.classification import TextClassification
from tests.pipeline.refusals import untimed, write_material

RECIPE = """
name = "tiny"

[data]
train = "train.csv"
dev = 30
test = 40

[teacher]
model = "base"
epochs = 4
batch_size = 8
learning_rate = {rate}
max_length = 32

[gate]
margin = 90

[[step]]
use = "distill.distil"
layers = [1]
epochs = 4
batch_size = 8
learning_rate = 0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with base/, train.csv and recipe.toml; a checkpoint after every step, and no timing."""
    write_material(tmp_path, RECIPE.format(rate=1e-3), layers=2)
    monkeypatch.chdir(tmp_path)
    untimed(monkeypatch)
    real = Stages.checkpoints

    def always(self: Stages, name: str, key: str) -> resume.Checkpoints | None:
        found = real(self, name, key)
        return found and resume.Checkpoints(found.folder, every=0)

    monkeypatch.setattr(Stages, "checkpoints", always)
    yield tmp_path


def run(out: str, kill: str, patch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    """The exit code of a run that is killed when its progress says `kill`, and all that it said."""
    told: list[str] = []

    def progress(_: Console, fraction: float, said: str) -> None:
        told.append(said)
        if kill and said.startswith(kill):
            raise KeyboardInterrupt

    with patch.context() as inner:
        inner.setattr(Console, "progress", progress)
        return main(["run", "recipe.toml", "--out", out]), told


def stages(out: str) -> list[str]:
    """Names of the stages' folders, without their keys."""
    return sorted(
        p.name.rpartition("-")[0] + p.suffix for p in Path(out, "stages").iterdir() if "targets" not in p.name
    )


def test_a_run_killed_in_its_trainings_goes_on_to_the_same_bytes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("whole", "", monkeypatch)[0] == 0
    assert run("out", "step 21/", monkeypatch)[0] == 130  # in the teacher's fine-tuning
    assert stages("out") == ["teacher.training"]
    code, told = run("out", "step 21/", monkeypatch)  # goes on with that, and is killed in the student's training
    assert (code, told[0]) == (130, "note: going on from the checkpoint of step 21/68")
    assert stages("out") == ["01-distill.distil.training", "teacher", "teacher-judged"]
    # A student that learns nothing is kept, and named wherever people look.
    monkeypatch.setattr("attar.pipeline.remarks.Counter.most_common", lambda *_: [("positive", 99)])
    code, told = run("out", "", monkeypatch)
    assert (code, told[0]) == (0, "note: going on from the checkpoint of step 21/68")
    assert not [name for name in stages("out") if name.endswith(".training")]
    for name in ("teacher/model.safetensors", "student/model.safetensors", "bundle/model.onnx"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    report = json.loads(Path("out/report.json").read_text())
    said = "are not above the class prior, 330.00 for always saying 'positive'"
    assert report["stages"][0]["kept"] and said in report["stages"][0]["reason"]
    assert said in report["warnings"][0] and report["warnings"][0].startswith(
        "01-distill.distil: The student has learnt"
    )
    assert said in Path("out/report.html").read_text().replace("&#x27;", "'")


@pytest.mark.parametrize("cached", [False, True])
def test_what_other_settings_left_is_cleaned_away(tmp_path: Path, cached: bool) -> None:
    stages, keys = Stages(tmp_path), [letter * 16 for letter in "abc"]
    if cached:
        stages.run("teacher", keys[0], lambda part: {})
    for name, key in (("teacher", keys[0]), ("teacher", keys[1]), ("teacher-judged", keys[2])):
        where = stages.checkpoints(name, key)
        assert where is not None
        where.folder.mkdir()
        (where.folder / resume.FILE).write_text("half a training")
    stages.run("teacher", keys[0], lambda part: {})
    kept = [f"teacher-{keys[0]}", f"teacher-judged-{keys[2]}.training"]
    assert sorted(p.name for p in tmp_path.iterdir()) == kept
    assert Stages(tmp_path, lasts=False).checkpoints("teacher", keys[0]) is None


def test_a_teacher_that_diverges_leaves_its_checkpoint(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "recipe.toml").write_text(RECIPE.format(rate=1e30))
    assert run("out", "", monkeypatch)[0] == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "in the batch that begins with 'The " in message and "lower learning_rate" in message
    kept = message.partition("kept as ")[2]
    assert stages("out") == ["teacher.training"] and Path(kept).is_file()


def test_the_class_prior() -> None:
    task, dev = TextClassification(("a", "b")), Examples(("x",) * 3, ("a", "b", "b"), "dev")
    assert "200 / 3 points" not in no_better_than_prior(task, 200 / 3, dev)
    assert "66.67 for always saying 'b'; train for more epochs" in no_better_than_prior(task, 200 / 3, dev)
    assert no_better_than_prior(task, 70.0, dev) == ""
    assert no_better_than_prior(TextClassification(("a", "b"), multi_label=True), 0.0, dev) == ""
    assert no_better_than_prior(task, 0.0, Examples(("x",), None, "dev")) == ""


def test_a_teacher_below_its_student_is_in_every_report() -> None:
    assert below_student(90.0, 90.0, 50) == ""
    dropped: dict[str, Any] = {"name": "01", "kept": False, "warning": "nothing learnt"}
    [said] = remarks([dropped], 88.0, 90.5, 50)
    assert said.startswith("The teacher scores 88.00 points on dev, below its student's 90.50: on 50 examples that may")
    report: Report = {"title": "t", "warnings": [said]}
    assert "The teacher scores 88.00 points on dev, below its student&#x27;s 90.50" in render(report)
    assert (
        "warning: The teacher scores 88.00 points" in table(report) and max(map(len, table(report).splitlines())) < 111
    )


def test_a_warning_stays_to_be_read() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    console = Console(stream)
    for said in ("step 1", "step 2; warning: the loss grows", "step 3; warning: the loss grows", "step 4"):
        console.progress(0.5, said)
    lines = [line for line in stream.getvalue().split("\n") if line]
    assert [("step 2; warning" in line, "step 3" in line) for line in lines] == [(True, False), (False, True)]
