"""Applies a recipe's steps one after another, measures each, and drops those that do not pay or cost too much."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from attar.distill import processes
from attar.distill.checkpoint import read_tokenizer
from attar.distill.device import CPU
from attar.distill.ensemble import Ensemble, combined
from attar.distill.resume import Checkpoints
from attar.distill.step import Context, find, never_pays, together
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Targets, Teacher
from attar.export.bundle import in_memory
from attar.export.onnx import to_files
from attar.pipeline.progress import Console
from attar.pipeline.recipe import StepSpec
from attar.pipeline.remarks import no_better_than_prior
from attar.pipeline.stages import Stages, key_of
from attar.pipeline.timing import as_they_ship, milliseconds
from attar.runtime import metrics
from attar.runtime.bench.paired import Ratio, compare_each
from attar.runtime.data import Examples
from attar.runtime.model import Model
from attar.runtime.tasks.base import Answer, Outputs, Statistics, Task, shortened
from attar.runtime.tokenizer import Encoded, Text

ROUNDS = 11


@dataclass(frozen=True)
class Material:
    """What the steps work with: texts, the teacher's folder and task, and further teachers."""

    task: Task
    train: Examples
    unlabelled: Examples
    dev: Examples
    teacher: Path
    ensemble: Ensemble = field(default_factory=Ensemble)

    def digest(self) -> str:
        texts = self.train.digest(), self.unlabelled.digest(), self.dev.digest()
        return key_of(self.task.to_json(), *texts, *self.ensemble.key())


def statistics(task: Task, answer: Answer, data: Examples) -> Statistics:
    """What each example contributes to each measure, by typed answers."""
    return task.statistics(answer, data.texts, data.labels or ())


def measures(found: Statistics) -> dict[str, float]:
    """Every measure in points."""
    return {name: metrics.points(name, values) for name, values in found.items()}


def score(task: Task, found: Statistics) -> float:
    """One number in points: the mean of the measures that the gate judges."""
    return sum(metrics.points(gate, found[gate]) for gate in task.gates) / len(task.gates)


def points(model: Model, data: Examples) -> float:
    """The score of a model, computed by the runtime."""
    return score(model.task, statistics(model.task, model.answer, data))


def set_apart(answer: Answer, inside: Examples, outside: Examples) -> float:
    """In points: how often a text of the data gets a higher score than one that belongs to no class (AUROC)."""
    scores = [np.array([a.score for a in answer(part.texts)]) for part in (inside, outside)]
    return round(100 * metrics.auroc(*scores), 3)


def dev_outputs(student: Student, dev: Examples) -> tuple[Encoded, Outputs]:
    """Raw outputs of the exported bytes on dev, and the rows they belong to."""
    encoded = student.encode(student.task.inputs(dev.texts))
    return encoded, in_memory(student).outputs(encoded)


def speedup(before: Student, after: Student, texts: Sequence[Text], as_int8: bool) -> Ratio:
    """How many times faster `after` is, in paired interleaved rounds over one batch and some single texts.

    Where the recipe will quantize, fp32 students are compared as the int8 students they will become.
    """
    before, after = as_they_ship((before, after), as_int8)
    a, b, texts = in_memory(before), in_memory(after), before.task.inputs(texts)
    batch, single = list(texts[:64]), list(texts[64:72]) or list(texts[:8])
    pairs = [(lambda: a.answer(batch), lambda: b.answer(batch))]
    pairs += [(lambda t=t: a.answer([t]), lambda t=t: b.answer([t])) for t in single]  # type: ignore[misc]  # lambdas with defaults
    return compare_each(pairs, ROUNDS)


def single_ms(model: Model, texts: Sequence[Text]) -> float:
    """Median milliseconds of single texts, text in to answer out. For pictures; ratios are measured in pairs."""
    times, texts = [], model.task.inputs(texts)
    for text in (*texts[:5], *texts[:60]):
        start = time.perf_counter()
        model.answer([text])
        times.append(1e3 * (time.perf_counter() - start))
    return float(median(times[len(texts[:5]) :]))


class Runner:
    """Runs steps over the cache; `console` hears of each. What the teacher says goes to the folder `targets`. Training
    and the teacher's passes are on the `device`, which no key of the cache knows."""

    def __init__(
        self, material: Material, stages: Stages, console: Console, quantizes: bool, device: torch.device = CPU
    ) -> None:
        self.material = material
        self.stages = stages
        self.targets = stages.root
        self.console = console
        self.quantizes = quantizes
        self.device = device
        self.teacher_key = ""
        self._teacher: Teacher | None = None
        self._others: list[Targets] | None = None

    def context(self, max_length: int, checkpoints: Checkpoints | None = None) -> Context:
        m = self.material

        def supervision(student: Student, states: Sequence[str]) -> Supervision:
            if self._teacher is None:
                self._teacher = Teacher(m.teacher, shortened(m.task, max_length), self.device)
            task = self._teacher.task
            if self._others is None:
                others = ((Teacher(o.folder, task, self.device), o.digest) for o in m.ensemble.members)
                self._others = [self._said(other, key, ()) for other, key in others]
            found = combined(self._said(self._teacher, self.teacher_key, states), self._others, task, m.ensemble)
            return supervise(student, read_tokenizer(m.teacher), found, m.train.texts + m.unlabelled.texts)

        return Context(
            train=m.train,
            unlabelled=m.unlabelled,
            dev=m.dev,
            supervision=supervision,
            speedup=lambda a, b: speedup(a, b, m.dev.texts, self.quantizes),
            score=lambda s: points(in_memory(s), m.dev),
            outputs=lambda s: dev_outputs(s, m.dev),
            teacher=m.teacher,
            progress=self.console.progress,
            milliseconds=lambda students, batch, tokens: milliseconds(students, batch, tokens, self.quantizes),
            checkpoints=checkpoints,
            device=self.device,
        )

    def _said(self, teacher: Teacher, teacher_key: str, states: Sequence[str]) -> Targets:
        """What a teacher says of all texts, kept in a folder of its own."""
        m = self.material
        about = key_of(teacher_key, teacher.task.to_json())
        key = key_of(teacher_key, m.train.digest(), m.unlabelled.digest(), teacher.task.to_json())
        texts = m.train.texts + m.unlabelled.texts
        with processes.in_turn():
            return teacher.targets(texts, states, self.targets / f"targets-{key}", self.console.progress, about)

    def run(
        self, start: Callable[[], Student], start_key: str, specs: Sequence[StepSpec], max_length: int,
        before: Mapping[str, Any] | None = None,
    ) -> tuple[Callable[[], Student], str, list[dict[str, Any]]]:  # fmt: skip
        """All steps in order; the last kept student (loaded when called), its key, and a record of every stage.

        `before` holds the dev `score` of the start, by which the first step's `max_loss` is judged.
        """
        load, key, records = start, start_key, []
        for number, spec in enumerate(specs, 1):
            name = f"{number:02d}-{spec.use}"
            step_key = key_of(
                key, spec.use, asdict(spec.settings), spec.max_loss, spec.must_pay, self.material.digest()
            )
            work = self._work(load, spec, before, max_length, self.stages.checkpoints(name, step_key))
            folder, result = self.stages.run(name, step_key, work, together=together(spec.use))
            record = {**result, "name": name, "cached": self.stages.cached[name], "seconds": self.stages.seconds[name]}
            records.append(record)
            verdict = "kept" if record["kept"] else "dropped"
            self.console.line(f"{name}: {verdict}, dev {record['score']:.2f}. {record['reason']}")
            if record["kept"]:
                load, key, before = _loader(folder / "student"), step_key, record
        return load, key, records

    def _work(
        self, load: Callable[[], Student], spec: StepSpec, before: Mapping[str, Any] | None, max_length: int,
        checkpoints: Checkpoints | None,
    ) -> Callable[[Path], dict[str, Any]]:  # fmt: skip
        def work(folder: Path) -> dict[str, Any]:
            self.console.line(f"{spec.use} ...")
            student, context = load(), self.context(max_length, checkpoints)
            after = find(spec.use).apply(student, spec.settings, context)
            if not processes.leads():
                return {}
            record = self._measure(student, after, spec, before)
            (after if record["kept"] else student).save(folder / "student")
            return record

        return work

    def _measure(
        self, student: Student, after: Student, spec: StepSpec, before: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        files = to_files(after)
        model = in_memory(after, model=files)
        found = points(model, self.material.dev)
        # Noise around 1 is no speed of a step that makes nothing faster.
        texts, timed = self.material.dev.texts, not never_pays(spec.use)
        ratio = speedup(student, after, texts, self.quantizes) if timed else None
        reference = before["score"] if before else None
        kept, reason = judge(spec, ratio, found, reference, after is not student and _changed(student, after))
        warning = no_better_than_prior(after.task, found, self.material.dev) if spec.use == "distill.distil" else ""
        facts = {k: v for k, v in after.lineage[-1].items() if k not in {"use", "settings"}}
        return {
            "use": spec.use,
            "settings": asdict(spec.settings),
            "kept": kept,
            "reason": " ".join(filter(None, [reason, warning, str(facts or "")])),
            "warning": warning,
            "score": round(found, 3),
            "size_mb": round(sum(map(len, files.values())) / 1e6, 3),
            "parameters": after.encoder.parameter_count(),
            "p50_ms": round(single_ms(model, self.material.dev.texts), 4),
            "speedup": None if ratio is None else ratio.to_json(),
        }


def _changed(a: Student, b: Student) -> bool:
    if a.encoder.shape != b.encoder.shape or a.plan != b.plan or a.task != b.task or a.tokenizer != b.tokenizer:
        return True
    mine, theirs = a.encoder.state_dict(), b.encoder.state_dict()
    return any(not np.array_equal(mine[k].numpy(), theirs[k].numpy()) for k in mine)


def judge(
    spec: StepSpec, ratio: Ratio | None, found: float, reference: float | None, changed: bool
) -> tuple[bool, str]:
    """Whether a step's result is kept, and why: it must change something, pay where it must, and not cost too much.

    `ratio` is None for a step that never pays.
    """
    speed = never_pays(spec.use)
    if ratio is not None:
        speed = f"{ratio.ratio:.2f}x as fast (95 % interval {ratio.low:.2f}-{ratio.high:.2f})"
    loss = None if reference is None else reference - found
    cost = "" if loss is None else f", {0.0 - loss:+.2f} points on dev"
    if not changed:
        return False, "It changed nothing: no candidate paid on this machine."
    if spec.must_pay and (ratio is None or ratio.low <= 1.0):
        return False, f"It does not pay: {speed}{cost}."
    if spec.max_loss is not None and loss is not None and loss > spec.max_loss:
        return False, f"It costs {loss:.2f} points on dev, more than its share of {spec.max_loss}; {speed}."
    return True, f"{speed[0].upper()}{speed[1:]}{cost}."


def _loader(folder: Path) -> Callable[[], Student]:
    return lambda: Student.load(folder)
