"""The parts of a run as work of their own: distil, compress, export, convert. Nothing is kept but the result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from attar.compress.gate import OWN, GateSettings
from attar.compress.quantize import int8
from attar.distill import distil as distillation
from attar.distill import processes
from attar.distill.data.assets import resolve_model
from attar.distill.data.augment import Augmentation, augmented
from attar.distill.data.split import remove_overlap, split
from attar.distill.device import CPU
from attar.distill.ensemble import Ensemble
from attar.distill.finetune import local_folder
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.pipeline.data import NOTHING, named, singles
from attar.pipeline.fit import LONGEST, check_kinship, check_labels, cut_at, fitting, student_for
from attar.pipeline.outside import as_it_is, load_any, refuse_steps
from attar.pipeline.progress import Console
from attar.pipeline.proof import Shipping, answers_of, prove, ship, teacher_statistics
from attar.pipeline.recipe import Recipe, StepSpec
from attar.pipeline.stages import Stages
from attar.pipeline.steps import Material, Runner, points
from attar.pipeline.teachers import ensemble_of
from attar.pipeline.unlabelled import check_enough, own_answers, warning_of
from attar.runtime.bench.texts import TEXTS, pairs
from attar.runtime.bundle import MANIFEST
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks.base import Task

INT8 = StepSpec("compress.quantize.int8", int8.Settings())
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Corpus:
    """Labelled texts, and texts held out from them: without `dev`, a tenth is split off."""

    train: Examples
    dev: Examples | None = None
    unlabelled: Examples = NOTHING

    def material(self, task: Task, teacher: Path, recipe: Recipe | None) -> Material:
        """The texts in `task`'s own label names, no sentence in two of the parts; new texts as the recipe has it."""
        made_of = recipe.data.augmentation if recipe else Augmentation()
        everything = named(self.train, task)
        if self.dev is None:
            parts = split(everything, dev=0.1, test=0, seed=made_of.seed)
            train, dev = parts.train, parts.dev
        else:
            dev = named(self.dev, task)
            train = remove_overlap(everything, dev)
        train = singles(task, train, dev)
        if not train.texts:
            raise DataError(f"{self.train.source} holds no text that is not in {dev.source} too; give other data")
        made = augmented(train, made_of, lambda: teacher, dev, self.unlabelled)
        more = Examples(made.texts + self.unlabelled.texts, None, self.unlabelled.source)
        ensemble = ensemble_of(recipe, task, teacher) if recipe else Ensemble()
        return Material(task, train, remove_overlap(more, train, dev), dev, teacher, ensemble)


def distil(
    teacher: str, corpus: Corpus, recipe: Recipe | None, out: Path, console: Console, device: torch.device = CPU
) -> Records:
    """The recipe's steps before the first of compression, from the fine-tuned teacher; the student goes to `out`."""
    out = vacant(out, "student.json")
    folder = local_folder(resolve_model(teacher))
    student = student_for(folder, corpus.train.texts)
    check_labels(student.task, corpus.train, teacher)
    student = cut_at(student, recipe.teacher.settings.max_length if recipe else LONGEST)
    if recipe is None:
        count = len(student.transformer.layers)
        layers = tuple(range(count, 0, -2))[::-1]
        methods = (*distillation.DEFAULT, {"use": "hidden_states", "match": layers})
        specs: Sequence[StepSpec] = [StepSpec("distill.distil", distillation.Settings(layers, methods))]
    else:
        specs = before_compression(recipe)
        if not specs:
            raise SettingsError(f"the recipe {recipe.name!r} has no distill step before its first compress step")
    material = corpus.material(student.task, folder, recipe)
    quantizes = recipe is not None and recipe.quantizes
    found, records = apply(student, material, specs, out, console, quantizes=quantizes, device=device)
    if processes.leads():
        found.save(out)
    processes.wait()
    return records


def compress(source: Path, teacher: str, corpus: Corpus, recipe: Recipe | None, out: Path, console: Console) -> Records:
    """The recipe's steps from the first of compression on, or int8 alone; the student goes to `out`."""
    out = vacant(out, "student.json")
    student, folder = student_for(source, corpus.train.texts), local_folder(resolve_model(teacher))
    specs = [INT8] if recipe is None else recipe.steps[len(before_compression(recipe)) :]
    if not specs:
        raise SettingsError(f"the recipe {recipe.name if recipe else ''!r} has no compress step")
    check_kinship(student, folder)
    material = corpus.material(student.task, folder, recipe)
    before = {"score": points(in_memory(student), material.dev)}
    quantizes = any(s.use.startswith("compress.quantize.") for s in specs)
    found, records = apply(student, material, specs, out, console, quantizes=quantizes, before=before)
    found.save(out)
    return records


def export(
    source: Path, test: Examples | None, teacher: str | None, settings: GateSettings, shipping: Shipping,
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    """Parity, with data and teacher the gate, then the bundle."""
    if (test is None) != (teacher is None):
        raise SettingsError("the gate needs both --data and --teacher; give both, or neither for a bundle without gate")
    shipping = replace(shipping, out=vacant(shipping.out, MANIFEST))
    student = Student.load(source) if test is None else student_for(source, test.texts)
    reference = None
    if test is not None and teacher is not None:
        test = named(split(test, dev=0, test=0, seed=0).train, student.task, source=test.source)
        folder = local_folder(resolve_model(teacher))
        check_kinship(student, folder, in_order=False)
        console.line(f"the teacher answers {len(test)} texts ...")
        reference = teacher_statistics(folder, test)
    console.line("parity, gate and bundle ...")
    texts = test.texts if test else pairs() if student.task.pairs else TEXTS
    proof = prove(student, texts, test, reference, settings, beside=shipping.beside)
    return ship(student, proof, shipping, source.resolve().name)


def convert(
    model: str, data: Examples, settings: GateSettings, shipping: Shipping, console: Console,
    *, steps: Sequence[StepSpec] = (), max_length: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A gated bundle of a fine-tuned model, by steps whose teacher it is itself; the gate's examples choose nothing.

    Where `data` has no labels, the model's own answers stand in for them.
    """
    out = vacant(shipping.out, MANIFEST)
    folder = local_folder(resolve_model(model))
    student = cut_at(load_any(folder), LONGEST if max_length is None else max_length, exact=max_length is not None)
    refuse_steps(student, steps)
    student = replace(student, task=fitting(student.task, data.texts))
    labels, warnings = "given", list[str]()
    if data.labels is None:
        check_enough(data)
        warnings = [warning for warning in [warning_of(student.tokenizer, data)] if warning]
        console.line("\n".join([*warnings, f"the model answers {len(data)} texts ..."]))
        data, labels = own_answers(student.task, answers_of(folder, data), data), OWN
    examples = named(data, student.task)
    # Repeated texts are dropped here too: they would make the gate surer than it may be.
    # int8 alone trains nothing, so what it is calibrated with may also choose.
    sizes = (1 / 3, 0) if tuple(steps) == (INT8,) else (1 / 6, 1 / 3) if steps else (0, 0)
    parts = split(examples, dev=sizes[0], test=sizes[1], seed=13)
    learnt, judged = parts.test if sizes[1] else parts.dev, replace(parts.train, source=data.source)
    records: Records = []
    if steps:
        console.line(f"the steps learn from {len(learnt)} texts, {len(parts.dev)} choose, {len(judged)} others judge")
        train = singles(student.task, learnt, *([parts.dev] if sizes[1] else []))
        material = Material(student.task, train, NOTHING, parts.dev, folder)
        before = {"score": points(in_memory(student), parts.dev)}
        quantizes = any(s.use.startswith("compress.quantize.") for s in steps)
        student, records = apply(student, material, steps, out, console, quantizes=quantizes, before=before)
    console.line("parity, gate and bundle ...")
    student, more = as_it_is(student, judged.texts, console)
    reference = teacher_statistics(folder, judged)
    proof = prove(student, judged.texts, judged, reference, settings, labels, beside=shipping.beside)
    shipped = ship(student, proof, replace(shipping, out=out), Path(model).name)
    return {**shipped, "steps": records, "warnings": [*warnings, *more]}


def before_compression(recipe: Recipe) -> Sequence[StepSpec]:
    """The recipe's leading steps, up to its first of compression."""
    return tuple(takewhile(lambda s: not s.use.startswith("compress."), recipe.steps))


def apply(
    student: Student, material: Material, specs: Sequence[StepSpec], out: Path, console: Console,
    *, quantizes: bool, before: Mapping[str, Any] | None = None, device: torch.device = CPU,
) -> tuple[Student, Records]:  # fmt: skip
    """The steps by the machinery of a run, in a cache beside `out` that is gone afterwards."""
    with workplace(out) as root:
        runner = Runner(material, Stages(root, lasts=False), console, quantizes, device)
        load, _, records = runner.run(lambda: student, "start", specs, student.task.max_length, before)
        return load(), records


def vacant(out: Path, marker: str) -> Path:
    """`out`, if it may be written: new, empty, or an earlier result, which holds a file named `marker`."""
    out = out.resolve()
    if out.exists() and not (out / marker).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} exists and has no {marker}: choose another --out, or remove it")
    above = next(p for p in out.parents if p.exists())
    if not above.is_dir():
        raise SettingsError(f"{above} is a file, so {out} cannot be a folder in it: choose another --out")
    return out


@contextmanager
def workplace(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`: the same disk, so that large caches fit where the result does.

    Of several processes the first one makes it for all.
    """
    place: AbstractContextManager[str] = nullcontext("")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if processes.leads():
            place = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".part")
    except OSError as error:
        raise SettingsError(f"cannot write to {out.parent} ({error.strerror}); choose another --out") from error
    with place as root:
        yield Path(processes.told(root))
        processes.wait()
