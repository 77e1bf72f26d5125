"""`attar blame` on a run's folder, its bundle and a bare student: tables, JSON, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.bundle import write
from attar.pipeline.blame import student_in, text
from attar.runtime.errors import SettingsError
from tests.models import make_student, sentences


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves: student/, bundle/ and report.json, with two stages kept and one dropped."""
    out = tmp_path_factory.mktemp("blame") / "run"
    student = make_student(out.with_name("base"), layers=1)
    student = replace(student, plan=QuantPlan().to_json()).with_step("compress.quantize.int8", {"bits": 8})
    student.save(out / "student")
    write(student, out / "bundle", name="x")
    stages = [
        {"name": "01-distill.distil", "kept": True, "score": 88.0, "p50_ms": 2.0},
        {"name": "02-compress.prune.heads", "kept": False, "score": 70.0, "p50_ms": 1.8},
        {"name": "03-compress.quantize.int8", "kept": True, "score": 87.25, "p50_ms": 0.5},
    ]
    (out / "report.json").write_text(json.dumps({"teacher": {"dev": 90.0, "p50_ms": 4.0}, "stages": stages}))
    found = sentences(40, seed=9)
    rows = [json.dumps({"text": t, "label": n}) for t, n in zip(found.texts, found.labels or (), strict=True)]
    (out / "dev.jsonl").write_text("\n".join(rows))
    return out


def blame(capsys: pytest.CaptureFixture[str], *command: object) -> dict[str, Any]:
    assert main(["blame", *map(str, command), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_stages_layers_and_matrices(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blame(capsys, ran, "--data", ran / "dev.jsonl")
    assert found["stages"] == [
        {"name": "01-distill.distil", "points": 2.0, "ms": 2.0},
        {"name": "03-compress.quantize.int8", "points": 0.75, "ms": 1.5},
    ]
    assert {row["name"] for row in found["layers"]} == {"words", "layers.0"}
    for rows in (found["layers"], found["matrices"]):
        assert [r["distance"] for r in rows] == sorted((r["distance"] for r in rows), reverse=True)
        assert all(r["ms"][1] <= r["ms"][0] <= r["ms"][2] for r in rows)
    assert found["lost"] == pytest.approx(found["fp32"] - found["int8"], abs=1e-3)
    shown = text(found).splitlines()
    assert shown[1].split() == ["01-distill.distil", "2.00", "2.000"]
    assert any(line.startswith("int8 per token: ") and "40 examples" in line for line in shown)
    assert max(map(len, shown)) <= 110


def test_a_bundle_finds_its_student_and_refuses_another(ran: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "bundle"
    shutil.copytree(ran / "bundle", lonely)
    digest = Student.load(ran / "student").digest()
    for path, given in ((ran, None), (ran / "bundle", None), (ran / "student", None), (lonely, ran / "student")):
        assert student_in(path, given).digest() == digest
    with pytest.raises(SettingsError, match="a bundle does not hold it; give the folder of a run, or --student"):
        student_in(lonely, None)
    with pytest.raises(SettingsError, match=r"no student\.json in"):
        student_in(ran, tmp_path / "none")
    Student.load(ran / "student").with_step("compress.heal", {}).save(tmp_path / "other")
    with pytest.raises(SettingsError, match="is not the one that"):
        student_in(lonely, tmp_path / "other")


def test_a_student_in_fp32_has_nothing_to_blame(ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace(Student.load(ran / "student"), plan=None).save(tmp_path / "student")
    assert main(["blame", str(tmp_path / "student"), "--data", str(ran / "dev.jsonl")]) == 0
    assert "the student is in fp32: no layer or matrix lost anything to int8" in capsys.readouterr().out
