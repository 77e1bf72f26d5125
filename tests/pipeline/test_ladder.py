"""Several students of one teacher: the teacher once, a table, the front, and rungs that fail alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.cli import main
from attar.distill.teacher import Teacher
from attar.pipeline import run as pipeline
from attar.pipeline.ladder import Rung, front, text
from attar.pipeline.recipe import read_ladder
from attar.runtime.bench.paired import Ratio
from attar.runtime.errors import SettingsError
from tests.models import make_checkpoint, sentences
from tests.pipeline.test_run import write_csv

LADDER = """
name = "rungs"

[data]
train = "{train}"
dev = 60
test = 120

[teacher]
model = "{base}"
epochs = 4
batch_size = 16
learning_rate = 2e-3
dropout = 0.0
max_length = 32

[gate]
margin = 30

[[rung]]
name = "one-layer"

[[rung.step]]
use = "distill.distil"
layers = [2]
epochs = 2
batch_size = 16
learning_rate = 1e-3

[[rung]]
name = "static"

[[rung.step]]
use = "distill.students.static"
width = 16
hidden = 16

[[rung.step]]
use = "distill.distil"
epochs = 8
batch_size = 16
learning_rate = 1e-2
train_words = true

[[rung]]
name = "impossible"

[[rung.step]]
use = "distill.distil"
layers = [7]
"""


def ratio(metric: str, value: float) -> dict[str, Any]:
    return {"name": "teacher", "metric": metric, "ratio": value, "low": value - 0.1, "high": value + 0.1, "rounds": 2}


def measured(run: pipeline.Run) -> dict[str, Any]:
    """In place of a benchmark, which starts processes and takes seconds: the static student is the faster one."""
    speed = {"one-layer": 2.0, "static": 20.0}[run.recipe.name]
    systems = [{"name": "teacher", "batch": 1, "p50_ms": 4.0, "p90_ms": 4.0, "p99_ms": 4.0, "throughput_per_s": 1.0}]
    bench = {"how": "by hand", "systems": systems, "ratios": [ratio("p50", speed), ratio("throughput", speed)]}
    return {"bench": bench, "overhead": {"ratio": 1.1, "low": 1.0, "high": 1.2}, "p50_ms": 1.0, "dev": 90.0}


@pytest.fixture(autouse=True, scope="module")
def no_timing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attar.pipeline.steps.speedup", lambda *_: Ratio(1.5, 1.4, 1.6, 11))
        patch.setattr(pipeline.Run, "measure", measured)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ladder")
    base = make_checkpoint(folder / "base", layers=2, trained=False)
    train = write_csv(folder / "train.csv", sentences(600))
    (folder / "ladder.toml").write_text(LADDER.format(train=train, base=base))
    assert main(["ladder", str(folder / "ladder.toml"), "--out", str(folder / "out")]) == 0
    return folder


def test_every_rung_is_a_bundle_and_the_teacher_is_kept_once(place: Path) -> None:
    for name in ("one-layer", "static"):
        model = attar.load(place / "out" / name / "bundle")
        assert [a.label for a in model(["The film was charming", "The plot was dull"])] == ["positive", "negative"]
        assert not (place / "out" / name / "teacher").exists()
    assert (place / "out/teacher/config.json").is_file()
    assert len(list((place / "out/stages").glob("teacher-judged-*"))) == 1


def test_a_rung_that_fails_leaves_the_others_alone(place: Path) -> None:
    record = json.loads((place / "out/ladder.json").read_text())
    one, static, impossible = record["rungs"]
    assert "7 is not one of the 2 layers" in impossible["failed"]
    assert not one["failed"] and one["p50"]["ratio"] == 2.0 and one["size_mb"] > 0
    assert static["verdict"] == "pass at 30" and static["front"]
    assert not impossible["front"]
    shown = text(record)
    assert "static*" in shown and "20.0x [19.9, 20.1]" in shown and "7 is not one of" in shown


def test_the_page_needs_nothing_else(place: Path) -> None:
    page = (place / "out/ladder.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r'(?:src|href)="(?!#)', page)
    for name in ("one-layer", "static", "impossible", "teacher"):
        assert name in page


def test_a_second_climb_asks_nobody_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((place / "out/ladder.json").read_text())

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("this is cached and must not be computed again")

    monkeypatch.setattr(Teacher, "_compute", refuse)
    monkeypatch.setattr(pipeline, "finetune", refuse)
    assert main(["ladder", str(place / "ladder.toml"), "--out", str(place / "out"), "--json"]) == 0
    after = json.loads((place / "out/ladder.json").read_text())
    assert [r["score"] for r in after["rungs"]] == [r["score"] for r in before["rungs"]]


def test_the_front_by_hand() -> None:
    def rung(name: str, score: float, speed: float, size: float) -> Rung:
        return Rung(name, score, p50=ratio("p50", speed), size_mb=size)

    rungs = [
        rung("best", 95, 2, 20), rung("fast", 90, 20, 5), rung("worse than fast", 89, 19, 6),
        rung("small", 88, 3, 1), Rung("failed", failed="it did"),
    ]  # fmt: skip
    assert front(rungs) == {"best", "fast", "small"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('name = "static"', 'name = "one-layer"'), "needs a name of its own"),
        (('name = "static"', 'name = "../up"'), "needs a name of its own"),
        (("[[rung.step]]\nuse", "[[step]]\nuse"), r"its steps are \[\[rung.step\]\]"),
        (("width = 16", "wide = 16"), r"rung 'static': step 1 .* has no setting 'wide'"),
    ],
)
def test_bad_ladders(change: tuple[str, str], said: str, tmp_path: Path) -> None:
    path = tmp_path / "ladder.toml"
    path.write_text(LADDER.format(train="x.csv", base="base").replace(*change))
    with pytest.raises(SettingsError, match=said):
        read_ladder(path)


def test_a_ladder_is_no_recipe(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(place / "ladder.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "attar ladder" in capsys.readouterr().err


def test_only_some_rungs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ladder", str(place / "ladder.toml"), "--out", str(place / "out"), "--json", "--only"]
    assert main([*command, "static"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [rung["name"] for rung in found["rungs"]] == ["static"]
    assert main([*command, "static, stairs"]) == 2
    assert "has no rung 'stairs'; it has one-layer, static, impossible" in capsys.readouterr().err
