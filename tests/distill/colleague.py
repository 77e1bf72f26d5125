"""One of several processes of a test: does the jobs of a file one after another, and leaves what came of them.

python -m tests.distill.colleague jobs.json, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as launchers set them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.cli import main
from attar.distill import distil, finetune, processes, trainer
from attar.distill.resume import Checkpoints
from attar.distill.student import Student
from tests.distill.classroom import context
from tests.models import MAX_LENGTH, corpus

SCHEDULE: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-3, "epochs": 1}
COUNT = 33
"""Four batches of 8, and one of a single row, of which the second process has no share."""


class KilledError(Exception):
    """Stands for the end of all processes."""


def trained(job: dict[str, Any]) -> dict[str, Any]:
    """Trains as the job says; the rows and the loss of every step, and the student's weights in `out`."""
    folder, losses, rows = Path(job["folder"]), [], []
    out = Path(job["out"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "instruction_sets", frozenset)  # no bf16: rounding would hide what is compared
        took, step = trainer.Standing.took, trainer.bucketed

        def noted(now: trainer.Standing, loss: float, warm: bool) -> None:
            losses.append(loss)
            took(now, loss, warm)
            if now.step == job.get("killed"):
                raise KilledError

        def listed(*given: Any) -> list[list[int]]:
            rows.extend(batches := step(*given))
            return batches

        patch.setattr(trainer.Standing, "took", noted)
        patch.setattr(trainer, "bucketed", listed)
        with contextlib.suppress(KilledError):
            _train(job, folder, out)
    return {"losses": losses, "rows": rows}


def _train(job: dict[str, Any], folder: Path, out: Path) -> None:
    said: list[str] = []
    kind = job["kind"]
    data = corpus(kind, COUNT, seed=1)
    checkpoints = Checkpoints(out.with_suffix(".kept"), every=0) if "killed" in job else None

    def progress(_: float, line: str) -> None:
        said.append(line)

    if job["methods"] is None:
        task = Student.load(folder).task
        settings = finetune.Settings(**SCHEDULE, dropout=job["dropout"], max_length=MAX_LENGTH)
        finetune.finetune(folder, task, data, settings, out, progress, checkpoints)
        return
    where = replace(context(folder, out.with_suffix(".cache"), data), checkpoints=checkpoints, progress=progress)
    given = distil.Settings((1, 2), tuple(job["methods"]), **SCHEDULE)
    with processes.in_turn():
        where.supervision(Student.load(folder), ())
    student = distil.apply(Student.load(folder), given, where)
    if processes.leads():
        student.save(out)


def commanded(job: dict[str, Any]) -> dict[str, Any]:
    """Runs one command; what it printed, and how it ended. The process `fails` raises an error at its second loss."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        if job.get("fails") == int(os.environ["RANK"]):
            patch.setattr(distil, "watched", _failing(job["way"]))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(job["command"])
            except SystemExit as end:
                code = int(end.code or 0)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def _failing(way: str) -> Any:
    calls = []

    def watched(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and way == "killed":
            os._exit(9)
        if len(calls) == 2:
            raise trainer.TrainingError("something is wrong here")
        return real(*given)

    real = distil.watched
    return watched


def work(file: Path) -> None:
    """All jobs of the file; the answers go beside it."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    answers = file.with_name(f"answers{rank}.json")
    found: list[dict[str, Any]] = []
    for job in json.loads(file.read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        if "command" in job:
            found.append(commanded(job))
        else:
            with processes.joined():
                found.append(trained(job))
        answers.write_text(json.dumps(found))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
