"""Students of every kind of task, made once, and the schemes that they are exported in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from attar.compress.quantize.int8 import calibrate, shared
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.runtime.tokenizer import Text
from tests.models import EDGE_TEXTS, corpus, inputs, make_student

SCHEMES = ("fp32", "per_token", "static", "7 bits")
Make = Callable[[str], Student]


def texts_of(kind: str) -> tuple[Text, ...]:
    """Real texts and those at the edges, as the kind reads them."""
    return (*corpus(kind, 40, seed=11).texts, *inputs(kind, EDGE_TEXTS))


def planned(student: Student, scheme: str, kind: str = "text-classification") -> Student:
    """The student as it is exported by the scheme."""
    if scheme == "fp32":
        return student
    scales = shared(calibrate(student, corpus(kind, 40, seed=11).texts)) if scheme == "static" else {}
    return replace(student, plan=QuantPlan(scales, bits=7 if scheme == "7 bits" else 8).to_json())


def maker(folder: Path, family: str = "bert", **sizes: int) -> Make:
    """Makes the student of each kind, of one family, at the first call."""
    made: dict[str, Student] = {}

    def make(kind: str) -> Student:
        if kind not in made:
            made[kind] = make_student(folder / kind, family, kind=kind, **sizes)
        return made[kind]

    return make
