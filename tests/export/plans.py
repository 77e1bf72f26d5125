"""Students of every kind of task, made once, and the schemes that they are exported in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from attar.compress.quantize.int8 import Settings
from attar.compress.quantize.int8 import planned as plan_of
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.runtime.tokenizer import Text
from tests.models import EDGE_TEXTS, corpus, inputs, make_student

PLANS: dict[str, QuantPlan] = {
    "per_token": QuantPlan(),
    "7 bits": QuantPlan(bits=7),
    "int8 weights": QuantPlan(kind="weights"),
    "int4 weights": QuantPlan(kind="weights", bits=4),
    "fp16": QuantPlan(kind="fp16", words="fp32"),
    "bf16": QuantPlan(kind="bf16", words="fp32"),
}
CALIBRATED: dict[str, Settings] = {
    "static": Settings(bits=8),
    "smooth": Settings(bits=8, smooth=0.5, correct=True),
}
SCHEMES = ("fp32", "per_token", "static", "7 bits", "int8 weights", "fp16", "bf16")
Make = Callable[[str], Student]


def texts_of(kind: str) -> tuple[Text, ...]:
    """Real texts and those at the edges, as the kind reads them."""
    return (*corpus(kind, 40, seed=11).texts, *inputs(kind, EDGE_TEXTS))


def planned(student: Student, scheme: str, kind: str = "text-classification") -> Student:
    """The student as it is exported by the scheme."""
    if scheme == "fp32":
        return student
    texts = corpus(kind, 40, seed=11).texts
    plan = PLANS[scheme] if scheme in PLANS else plan_of("static", student, texts, CALIBRATED[scheme])
    return replace(student, plan=plan.to_json())


def maker(folder: Path, family: str = "bert", **sizes: int) -> Make:
    """Makes the student of each kind, of one family, at the first call."""
    made: dict[str, Student] = {}

    def make(kind: str) -> Student:
        if kind not in made:
            made[kind] = make_student(folder / kind, family, kind=kind, **sizes)
        return made[kind]

    return make
