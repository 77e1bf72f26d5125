"""Two processes train as one: the same batches in the same order, the same losses, the same weights; and end as one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.cli import main
from attar.distill.checkpoint import read_weights
from attar.distill.student import Student
from tests.distill.colleague import trained
from tests.models import LABELS, make_checkpoint, sentences

ROOT = Path(__file__).resolve().parents[2]
TEXTS: list[Any] = [
    {"use": "soft_targets"}, {"use": "contrastive", "bank": 20}, {"use": "labels", "weight": [0.1, 0.5]},
]  # fmt: skip
TOKENS: list[Any] = [
    {"use": "soft_targets"}, {"use": "labels"}, {"use": "attention", "match": [1, 2]}, {"use": "embeddings"},
    {"use": "hidden_states", "match": [1, 2]},
]  # fmt: skip
TRAININGS: dict[str, dict[str, Any]] = {
    "texts": {"kind": "text-classification", "methods": TEXTS},
    "tokens": {"kind": "token-classification", "methods": TOKENS},
    "pairs of a batch": {"kind": "embeddings", "methods": None, "dropout": 0.0},
}
"""Means over rows and over tokens, a memory, projections, word embeddings without a gradient; texts told from each
other across the shares."""
DROPOUT: dict[str, Any] = {"kind": "text-classification", "methods": None, "dropout": 0.2}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def jobs(place: Path) -> dict[str, dict[str, Any]]:
    """What the two processes do, by name."""
    named: dict[str, dict[str, Any]] = {}
    for name, training in TRAININGS.items():
        named[name] = {**training, "folder": str(place / training["kind"]), "out": str(place / f"two {name}")}
    folder = str(place / "text-classification")
    kept = {**DROPOUT, "folder": folder, "out": str(place / "kept")}
    named["unbroken"] = {**DROPOUT, "folder": folder, "out": str(place / "unbroken")}
    named["broken"], named["resumed"] = {**kept, "killed": 3}, {**kept, "killed": 0}
    command = ["distill", folder, "--data", str(place / "train.csv"), "--recipe", str(place / "recipe.toml")]
    for name, more in {"done": {}, "told": {"fails": 1, "way": "told"}, "gone": {"fails": 1, "way": "killed"}}.items():
        named[name] = {"command": [*command, "--out", str(place / f"student {name}"), "--json"], **more}
    return named


RECIPE = """
name = "tiny"
[data]
train = "x.csv"
[teacher]
model = "x"
[[step]]
use = "distill.distil"
layers = [2]
epochs = 1
batch_size = 16
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teachers of every kind needed, data and a recipe."""
    folder = tmp_path_factory.mktemp("together")
    for training in TRAININGS.values():
        make_checkpoint(folder / training["kind"], kind=training["kind"], layers=2)
    found = sentences(80)
    lines = [f'"{text}",{label}' for text, label in zip(found.texts, found.labels or (), strict=True)]
    (folder / "train.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def answers(place: Path) -> dict[str, list[dict[str, Any]]]:
    """By job, what both processes had to say."""
    todo = jobs(place)
    file = place / "jobs.json"
    file.write_text(json.dumps([{**job, "port": free_port()} for job in todo.values()]))
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distill.colleague", str(file)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        ends = [(process.communicate(timeout=600)[1], process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [code for _, code in ends] == [0, 9], ends  # the second is killed in its last job
    found = [json.loads((place / f"answers{rank}.json").read_text()) for rank in range(2)]
    return {name: [answer[i] for answer in found if i < len(answer)] for i, name in enumerate(todo)}


def weights(folder: Path) -> dict[str, Any]:
    return read_weights(folder / "model.safetensors")


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one(name: str, place: Path, answers: dict[str, list[dict[str, Any]]]) -> None:
    job = jobs(place)[name]
    one = trained({**job, "out": str(place / f"one {name}")})
    assert len(one["losses"]) == 5 and sorted(map(len, one["rows"])) == [1, 8, 8, 8, 8]
    for answer in answers[name]:
        assert answer["rows"] == one["rows"]
        np.testing.assert_allclose(answer["losses"], one["losses"], rtol=1e-4)
    assert answers[name][0]["losses"] == answers[name][1]["losses"]
    alone, together, before = (weights(place / f) for f in (f"one {name}", f"two {name}", job["kind"]))
    moved = [float((value - before[key]).abs().max()) for key, value in alone.items() if key in before]
    for key, value in alone.items():
        # AdamW moves a weight whose gradient is nothing but rounding, as of keys' biases, by the rate in any direction.
        if not key.endswith("key.bias"):
            torch.testing.assert_close(together[key], value, rtol=0, atol=1e-4, msg=key)
    assert not moved or max(moved) > 2e-3


def test_a_training_of_two_resumes_to_the_same_bits(place: Path, answers: dict[str, list[dict[str, Any]]]) -> None:
    unbroken, broken, resumed = (answers[name] for name in ("unbroken", "broken", "resumed"))
    for rank in range(2):
        assert broken[rank]["losses"] == unbroken[rank]["losses"][:3]
        # Killed before the checkpoint of its third step, which is done again.
        assert resumed[rank]["losses"] == unbroken[rank]["losses"][2:]
    assert Student.load(place / "kept").digest() == Student.load(place / "unbroken").digest()
    assert not (place / "kept.kept").exists()


def test_a_command_gives_one_student_and_speaks_once(place: Path, answers: dict[str, list[dict[str, Any]]]) -> None:
    first, second = answers["done"]
    assert (first["code"], second["code"]) == (0, 0), first["err"]
    (line,) = first["out"].splitlines()
    assert json.loads(line)["student"] == str(place / "student done")
    assert "01-distill.distil: kept" in first["err"] and (second["out"], second["err"]) == ("", "")
    assert Student.load(place / "student done").task.labels == LABELS
    assert not list(place.glob(".student*"))


def test_a_process_that_fails_ends_the_others_and_is_heard_once(answers: dict[str, list[dict[str, Any]]]) -> None:
    first, second = answers["told"]
    assert (first["code"], second["code"]) == (2, 2)
    assert "attar: error:" not in first["err"]
    assert second["err"] == "attar: error: something is wrong here\n"


def test_a_process_that_is_gone_ends_the_others_with_a_message(answers: dict[str, list[dict[str, Any]]]) -> None:
    (first,) = answers["gone"]
    assert first["code"] == 2
    assert first["err"].splitlines()[-1].startswith("attar: error: another process is gone (")
    assert first["err"].count("attar: error:") == 1


@pytest.mark.parametrize(
    ("environment", "verb", "message"),
    [
        ({"WORLD_SIZE": "2"}, "predict", "only run, ladder, distill are shared out among processes"),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}, "run", "accelerate launch --multi_gpu"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(
    environment: dict[str, str], verb: str, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert main([verb]) == 2
    assert message in capsys.readouterr().err
