"""A whole run on a GPU, by a pretended one: all that lies behind training gets its networks on the CPU, and the cache
does not know where a stage was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.cli import main
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.pipeline import run as pipeline
from attar.runtime.errors import AttarError
from tests.distill.pretended import NAME, pretended
from tests.pipeline import refusals as tiny
from tests.pipeline.refusals import untimed, write_material

RECIPE = tiny.RECIPE.replace("[[step]]", "[gate]\nmargin = 90\n\n[[step]]", 1)
THERE = f"cuda ({NAME})"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with base/, train.csv and recipe.toml; no timing, and PyTorch finds a GPU."""
    write_material(tmp_path, RECIPE)
    monkeypatch.chdir(tmp_path)
    untimed(monkeypatch)
    # PyTorch's own exporter, of the baseline, traces with tensors that have no memory.
    monkeypatch.setattr(pipeline, "plain_files", lambda folder, task: {"model.onnx": to_onnx(Student.load(folder))})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_run_trains_there_and_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "recipe.toml", "--out", "out", "--json"]
    with pretended() as there:
        assert main(command) == 0
    assert there.casts == {"cuda"}
    report = said(capsys)
    assert report["teacher"]["trained_on"] == THERE and THERE in report["stages"][0]["reason"]
    assert Student.load(here / "out/student").lineage[0]["trained_on"] == THERE
    # The same stages by another device: nothing is trained again.
    assert main([*command, "--device", "cpu"]) == 0
    again = said(capsys)
    assert all(stage["cached"] for stage in again["stages"]) and again["teacher"]["trained_on"] == THERE


def test_distill_trains_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["distill", "base", "--data", "train.csv", "--recipe", "recipe.toml", "--out", "new", "--json"]
    with pretended() as there:
        assert main([*command, "--device", "cuda"]) == 0
    assert there.casts == {"cuda"} and THERE in said(capsys)["steps"][0]["reason"]


def test_a_ladder_hands_the_device_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*given: object) -> None:
        raise AttarError(f"fine-tuned on {given[-1]}")

    monkeypatch.setattr(pipeline, "finetune", stopped)
    ladder = RECIPE.replace("[[step]]", '[[rung]]\nname = "one"\n[[rung.step]]', 1).replace("[[step]]", "[[rung.step]]")
    (here / "ladder.toml").write_text(ladder)
    for name, device in (("cuda", "cuda:0"), ("cpu", "cpu")):
        assert main(["ladder", "ladder.toml", "--out", "rungs", "--device", name]) == 2
        assert capsys.readouterr().err.endswith(f"fine-tuned on {device}\n")
