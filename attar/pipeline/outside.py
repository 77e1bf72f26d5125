"""Models from outside: what attar imports may be changed, and any other encoder is converted as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attar.distill.importers import IMPORTED, importable
from attar.distill.plain import Plain, plain_student
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.export.invariance import moved
from attar.pipeline.fit import LONGEST
from attar.pipeline.progress import Console
from attar.pipeline.recipe import StepSpec
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text

UNMOVED = 1e-5
"""Relative change of raw outputs up to which fp32 answers count as the same; that of attar's own graphs is 0."""


def load_any(folder: Path) -> Student:
    """A saved student, an imported model, or a model of another family as it is."""
    if not folder.is_dir() or (folder / "student.json").is_file() or importable(folder):
        return Student.load(folder)
    return plain_student(folder, LONGEST)


def refuse_steps(student: Student, steps: Sequence[StepSpec]) -> None:
    """`SettingsError` for any steps of a model that can only be exported as it is."""
    if steps and isinstance(student.encoder, Plain):
        raise SettingsError(
            f"a model of the family {student.encoder.shape.family!r} is exported as it is, in fp32: leave out --int8 "
            f"and --steps, or give a model of {', '.join(IMPORTED)}"
        )


def as_it_is(student: Student, texts: tuple[Text, ...], console: Console) -> tuple[Student, list[str]]:
    """What is exported as it is, with a note on it and on what padding does to its answers; a warning if that is much.

    Any other student unchanged.
    """
    if not isinstance(student.encoder, Plain):
        return student, []
    family, by = student.encoder.shape.family, moved(in_memory(student), student.encode(student.task.inputs(texts)))
    note = f"exported as it is, by the graph of transformers' own {family}; padding and the texts beside a text "
    note += f"move its raw outputs by {by:.1e} of the largest at most"
    note += "" if by <= UNMOVED else ": answers depend on the other texts of a batch"
    told = student.with_step("export.onnx.plain", {}, note=note, moved_by_padding=by)
    if by <= UNMOVED:
        return told, []
    console.line(f"warning: {note}")
    return told, [f"warning: {note}"]
