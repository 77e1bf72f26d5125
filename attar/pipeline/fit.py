"""Does a task fit the texts, the length and the teacher that it is used with?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.distill.checkpoint import TASK, read_config, read_task
from attar.distill.data.assets import resolve_model
from attar.distill.finetune import local_folder
from attar.distill.student import Student
from attar.export.bundle import describe
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, ModelError, SettingsError
from attar.runtime.tasks.base import Task, shortened
from attar.runtime.tasks.classification import SHOWN, TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.regression import Regression
from attar.runtime.tokenizer import Text

LONGEST = 512  # tokens; what the known families were pretrained to read


def fitting(task: Task, texts: Sequence[Text]) -> Task:
    """The task for these texts: config.json does not say whether a classifier reads single texts or pairs.

    An embedder is judged by similarity on pairs, and by retrieval on single texts with classes.
    """
    pair = bool(texts) and isinstance(texts[0], tuple)
    if isinstance(task, TextClassification | Regression) and task.pair != pair:
        return replace(task, pair=pair)
    if isinstance(task, Embedding):
        return replace(task, judged_by="Spearman" if pair else "recall@1")
    return task


def student_for(folder: Path, texts: Sequence[Text]) -> Student:
    """The student in a folder, with a task for these texts where the folder's own files do not say it."""
    student = Student.load(folder)
    known = any((folder / name).is_file() for name in ("student.json", TASK)) and student.task.kind != "embeddings"
    return student if known else replace(student, task=fitting(student.task, texts))


def cut_at(student: Student, length: int, exact: bool = False) -> Student:
    """The student reading at most `length` tokens; with `exact` a length it cannot read is refused."""
    longest = min(student.encoder.shape.positions, LONGEST)
    if exact and not 3 <= length <= longest:
        raise SettingsError(f"max_length must be between 3 and the model's {longest} tokens, not {length}")
    length = length if exact else min(length, student.task.max_length)
    return replace(student, task=shortened(student.task, length))


def task_in(model: str | Path) -> Task:
    """The task of a student's folder, or of a fine-tuned model: what its data must look like."""
    folder = local_folder(resolve_model(str(model)))
    if (folder / "student.json").is_file():
        return Student.load(folder).task
    positions = int(read_config(folder).get("max_position_embeddings") or LONGEST)
    return read_task(folder, positions)


def check_kinship(student: Student, teacher: Path, in_order: bool = True) -> None:
    """Refuses a teacher whose answers mean something else than the student's; raw outputs only compare in order."""
    other, mine = Student.load(teacher).task, student.task
    if other.kind != mine.kind or names_of(other, in_order) != names_of(mine, in_order):
        raise ModelError(
            f"{teacher} is a {describe(other)}, the student a {describe(mine)}; give the teacher it was distilled from"
        )


def check_labels(task: Task, data: Examples, teacher: str) -> None:
    """Refuses data to train with whose labels are others than those that a fine-tuned classifier gives."""
    if not isinstance(task, TextClassification) or not data.labels:
        return
    given = {n for label in data.labels for n in (label if isinstance(label, list | tuple) else (label,))}
    ids = {str(i) for i in range(len(task.labels))}
    unknown = sorted(map(str, given - set(task.labels)))
    if unknown and not given <= ids:
        raise DataError(
            f"{data.source}: its labels ({listed(sorted(map(str, given)))}) are not those of the teacher {teacher} "
            f"({listed(task.labels)}), which does not know {unknown[0]!r}; give data with the teacher's labels, or a "
            "teacher that was fine-tuned on these"
        )


def listed(names: Sequence[str]) -> str:
    """Some names, for a message."""
    return ", ".join([*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])])


def parts_of(task: Task) -> list[Task]:
    """The tasks of a multi-task, or the task itself."""
    return [part for _, part in task.parts] if isinstance(task, MultiTask) else [task]


def names_of(task: Task, in_order: bool = True) -> list[Any]:
    """What the outputs are called, in their order or in that of the alphabet."""
    names = [
        [h.name for h in task.heads],
        *(n for p in parts_of(task) for n in (getattr(p, "labels", ()), getattr(p, "tags", ()))),
    ]
    return [list(n) if in_order else sorted(n) for n in names]
