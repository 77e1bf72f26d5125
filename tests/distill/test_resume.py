"""A training that is killed goes on from its checkpoint to the same bits; one that is not its own is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.distill import distil, finetune, resume
from attar.distill.resume import Checkpoints
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.trainer import Progress, Schedule, Standing, TrainingError, train
from attar.runtime.tasks.classification import TextClassification
from tests.distill.classroom import context as classroom
from tests.models import LABELS, MAX_LENGTH, make_checkpoint, quiet, sentences

TRAIN = sentences(320, seed=1)
TASK = TextClassification(LABELS, MAX_LENGTH)
TUNING = finetune.Settings(epochs=3, batch_size=16, learning_rate=3e-3, dropout=0.1, max_length=MAX_LENGTH)
METHODS = (
    {"use": "soft_targets"}, {"use": "hidden_states", "match": (2, 3)}, {"use": "contrastive", "bank": 400},
    {"use": "labels", "weight": (0.1, 0.5)},
)  # fmt: skip
DISTILLING = distil.Settings((1, 3), METHODS, epochs=3, batch_size=16, learning_rate=1e-3)
Work = Callable[[Checkpoints | None, Progress], str]
"""Trains, and gives the digest of the student's weights."""


class KilledError(Exception):
    """Stands for the end of the process."""


def killer(line: str) -> Progress:
    """A progress callback at which the training is killed as soon as it says `line`."""

    def progress(_: float, said: str) -> None:
        if said.startswith(line):
            raise KilledError

    return progress


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("resume") / "base", layers=3)


@pytest.fixture(params=["finetune", "distil"])
def work(request: pytest.FixtureRequest, base: Path, tmp_path: Path) -> Work:
    if request.param == "finetune":
        return lambda checkpoints, progress: tuned(base, TUNING, tmp_path / "out", checkpoints, progress)
    where = classroom(base, base.with_name("cache"), TRAIN)
    return lambda checkpoints, progress: distilled(base, DISTILLING, where, checkpoints, progress)


def tuned(
    base: Path, settings: finetune.Settings, out: Path, checkpoints: Checkpoints | None, progress: Progress
) -> str:
    finetune.finetune(base, TASK, TRAIN, settings, out, progress, checkpoints)
    return Student.load(out).digest()


def distilled(
    base: Path, settings: distil.Settings, where: Context, checkpoints: Checkpoints | None, progress: Progress
) -> str:
    where = replace(where, checkpoints=checkpoints, progress=progress)
    return distil.apply(Student.load(base), settings, where).digest()


def test_a_killed_training_resumes_to_the_same_bits(work: Work, tmp_path: Path) -> None:
    uninterrupted = work(None, quiet)
    checkpoints, told = Checkpoints(tmp_path / "kept", every=0), []
    for step in (21, 41):  # in the second epoch, and in the third
        with pytest.raises(KilledError):
            work(checkpoints, killer(f"step {step}/60"))
        assert [p.name for p in checkpoints.folder.iterdir()] == [resume.FILE]
    torch.rand(7)  # the generators of another process stand elsewhere
    assert work(checkpoints, lambda _, said: told.append(said)) == uninterrupted
    assert told[0] == "note: going on from the checkpoint of step 41/60" and told[-1].startswith("step 60/60")
    assert not any(said.startswith("step 21/") for said in told)
    assert not checkpoints.folder.exists()


def test_a_checkpoint_is_written_without_changing_what_is_learnt(work: Work, tmp_path: Path) -> None:
    assert work(Checkpoints(tmp_path / "kept", every=0), quiet) == work(Checkpoints(tmp_path / "kept"), quiet)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_checkpoint_is_left_aside(base: Path, tmp_path: Path, damage: str) -> None:
    short = replace(TUNING, epochs=0.5)
    checkpoints, told = Checkpoints(tmp_path / "kept", every=0), []
    with pytest.raises(KilledError):
        tuned(base, short, tmp_path / "out", checkpoints, killer("step 1/"))
    file = checkpoints.folder / resume.FILE
    whole = bytearray(file.read_bytes())
    flipped = whole[:]
    flipped[len(whole) // 2] ^= 4
    file.write_bytes(
        {"cut": whole[: len(whole) // 2], "flipped": flipped, "empty": b"", "other": b"text " * 99}[damage]
    )
    found = tuned(base, short, tmp_path / "out", checkpoints, lambda _, said: told.append(said))
    assert f"{file} is damaged" in told[0] and told[1].startswith("step 1/")
    assert found == tuned(base, short, tmp_path / "out", None, quiet)
    assert not checkpoints.folder.exists()


def hears(told: list[str], line: str) -> Progress:
    """A killer that keeps what was said until then."""

    def progress(fraction: float, said: str) -> None:
        told.append(said)
        killer(line)(fraction, said)

    return progress


@pytest.mark.parametrize("changed", ["learning_rate", "seed", "weights", "data"])
def test_the_checkpoint_of_another_training_is_not_used(
    base: Path, tmp_path: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, told = Checkpoints(tmp_path / "kept", every=0), []
    with pytest.raises(KilledError):
        tuned(base, TUNING, tmp_path / "out", checkpoints, killer("step 1/"))
    settings = replace(TUNING, **{changed: 1}) if changed in {"learning_rate", "seed"} else TUNING
    start = make_checkpoint(tmp_path / "base", layers=3, seed=1) if changed == "weights" else base
    if changed == "data":
        monkeypatch.setattr("tests.distill.test_resume.TRAIN", sentences(320, seed=2))
    with pytest.raises(KilledError):
        tuned(start, settings, tmp_path / "out", checkpoints, hears(told, "step 1/"))
    assert "belongs to another training" in told[0] and told[1].startswith("step 1/")
    with pytest.raises(KilledError):  # it has taken the other's place
        tuned(
            start, settings, tmp_path / "out", checkpoints, hears(told, "note: going on from the checkpoint of step 1/")
        )


def test_what_another_teacher_says_is_another_training(base: Path, tmp_path: Path) -> None:
    other, told = make_checkpoint(tmp_path / "base", layers=3, seed=1), []
    checkpoints = Checkpoints(tmp_path / "kept", every=0)
    for folder in (base, other):
        with pytest.raises(KilledError):
            where = classroom(folder, folder.with_name("cache"), TRAIN)
            distilled(base, DISTILLING, where, checkpoints, hears(told, "step 1/"))
    assert len([said for said in told if "belongs to another training" in said]) == 1


def test_a_disk_that_takes_no_checkpoint_does_not_end_the_training(base: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder should be")
    told: list[str] = []
    settings = replace(TUNING, epochs=0.5)
    checkpoints = Checkpoints(tmp_path / "kept", every=0)
    tuned(base, settings, tmp_path / "out", checkpoints, lambda _, said: told.append(said))
    assert f"warning: no checkpoint could be written to {tmp_path / 'kept'}" in told[-1]


# --- a loss that is not finite, or grows --------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "what"), [(float("nan"), "loss became nan"), (float("inf"), "loss became inf")])
def test_a_loss_that_is_not_finite_names_step_text_and_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float, what: str
) -> None:
    real, calls = torch.nn.functional.cross_entropy, []

    def loss(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return real(*args, **options) * (bad if len(calls) == 8 else 1.0)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", loss)
    checkpoints = Checkpoints(tmp_path / "kept", every=0)
    with pytest.raises(TrainingError) as caught:
        tuned(base, TUNING, tmp_path / "out", checkpoints, quiet)
    message, file = str(caught.value), checkpoints.folder / resume.FILE
    assert message.startswith(f"the {what} at step 8 of 60, in the batch that begins with 'The ")
    assert message.endswith(f"; lower learning_rate. The last good checkpoint is kept as {file}")
    assert torch.load(file, weights_only=True)["standing"]["step"] == 7
    assert not (tmp_path / "out").exists()


def test_a_gradient_that_is_not_finite_leaves_the_weights() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(
        TrainingError, match=r"the gradient became (nan|inf) at step 1 of 5, .*'t{57}\.\.\.'; .*leave that"
    ):
        train(
            [weight], [1] * 10, lambda *_: weight.sqrt().sum(), Schedule(1, 2, 1e-3), quiet, text_of=lambda _: "t" * 99
        )
    assert weight.tolist() == [0, 0]


def test_a_loss_that_grows_is_warned_of() -> None:
    now = Standing()
    for loss, warm in ((9.0, False), (1.0, True)):
        for _ in range(400):
            now.took(loss, warm)
    assert now.line(999) == f"step 800/999, loss {now.mean:.4f}" and now.lowest == now.mean == pytest.approx(
        1, abs=0.01
    )
    for _ in range(70):
        now.took(3.0, True)
    assert "; warning: the loss grows, its lowest mean was 1.00" in now.line(999)
    assert "lower learning_rate" in now.line(999)
