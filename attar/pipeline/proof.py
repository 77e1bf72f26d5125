"""The proof of what ships: parity and the gate on the exported bytes, and the bundle that carries both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attar.compress.gate import GateSettings, Verdict, judge_all, worst
from attar.distill.student import Student
from attar.distill.teacher import Teacher
from attar.export import parity
from attar.export.bundle import Evidence, in_memory, scheme, write
from attar.export.onnx import to_files
from attar.export.onnx.files import LIMIT
from attar.pipeline.fit import LONGEST, cut_at, fitting
from attar.pipeline.outside import load_any
from attar.pipeline.steps import measures, statistics
from attar.runtime.data import Examples
from attar.runtime.model import Model
from attar.runtime.tasks.base import Answer, Statistics
from attar.runtime.tokenizer import Text

PARITY_TEXTS = 256


@dataclass(frozen=True)
class Shipping:
    """Where a bundle goes, whether one that failed its gate may, and how: weights of more than `beside` bytes lie in
    files beside the graph."""

    out: Path
    allow_failed_gate: bool = False
    beside: int = LIMIT


@dataclass(frozen=True)
class Proof:
    """What was found out about the exported `files`; no verdict where there was nothing to judge by.

    `measures`: every measure of the task in points, on what it was judged on.
    """

    files: Mapping[str, bytes]
    runtime: Model
    parity: parity.Parity
    verdicts: tuple[Verdict, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)
    judged_on: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """That of the measure that came off worst: all must pass."""
        return worst(self.verdicts) if self.verdicts else None

    @property
    def passed(self) -> bool:
        """Whether the gate was passed."""
        return self.verdict is not None and self.verdict.verdict == "pass"

    @property
    def gate(self) -> dict[str, Any] | None:
        """The manifest's certificate: the worst verdict and, where several measures were judged, all of them."""
        if self.verdict is None:
            return None
        every = {"measures": [v.to_json() for v in self.verdicts]} if len(self.verdicts) > 1 else {}
        return {**self.verdict.to_json(), "split": self.judged_on, **every}

    @property
    def evidence(self) -> Evidence:
        """For the bundle's manifest and model card."""
        facts = {"parity with PyTorch (raw fp32 outputs)": f"{self.parity.max_abs:.1e} at most"}
        if self.verdict is None:
            return Evidence(facts=facts)
        return Evidence(self.gate, self.verdict.sentence(), facts)


def prove(
    student: Student, texts: Sequence[Text], judged: Examples | None, teacher: Statistics | None,
    settings: GateSettings, labels: str = "given", beside: int = LIMIT,
) -> Proof:  # fmt: skip
    """Parity with PyTorch on `texts` and, where the teacher's statistics are known, the gate on the bytes.

    `labels`: where those of `judged` come from, as a verdict says it. `beside`: as in `Shipping`.
    """
    found = parity.check(student, student.task.inputs(texts)[:PARITY_TEXTS])
    files = to_files(student, beside)
    runtime = in_memory(student, model=files)
    if judged is None or teacher is None:
        return Proof(files, runtime, found)
    mine = statistics(student.task, runtime.answer, judged)
    verdicts = tuple(replace(v, labels=labels) for v in judge_all(teacher, mine, student.task.gates, settings))
    return Proof(files, runtime, found, verdicts, measures(mine), judged.source)


def ship(student: Student, proof: Proof, shipping: Shipping, name: str) -> dict[str, Any]:
    """Writes the bundle, or raises `GateError`; what a program wants to know of it."""
    bundle = write(
        student, shipping.out, name=name, evidence=proof.evidence, allow_failed_gate=shipping.allow_failed_gate,
        files=proof.files,
    )  # fmt: skip
    return {
        "bundle": str(shipping.out),
        "scheme": scheme(student),
        "size": bundle.size,
        "gate": proof.gate,
        "verdict": proof.evidence.gate_sentence,
        "parity": proof.parity.to_json(),
    }


def teacher_statistics(folder: Path, judged: Examples) -> Statistics:
    """What the model makes of the examples in PyTorch fp32, reading as many tokens as it can."""
    task = fitting(cut_at(load_any(folder), LONGEST).task, judged.texts)
    return statistics(task, answers_of(folder, judged), judged)


def answers_of(folder: Path, examples: Examples) -> Answer:
    """What answers texts like the examples as the model in the folder does, in PyTorch fp32."""
    model = cut_at(load_any(folder), LONGEST)
    model = replace(model, task=fitting(model.task, examples.texts))
    # A Hugging Face folder answers through its own library, so that the gate judges our import of it too.
    return model.answer if (folder / "student.json").is_file() else Teacher(folder, model.task).answer
