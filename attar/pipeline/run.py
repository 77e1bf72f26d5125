"""A recipe run end to end: data, teacher, steps, gate on the final bytes, bundle, benchmark, report."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from attar.compress.gate import sentence
from attar.distill.data.assets import resolve_data, resolve_model
from attar.distill.data.augment import crops
from attar.distill.data.split import Splits, check_disjoint, remove_overlap, split
from attar.distill.finetune import finetune, local_folder
from attar.distill.importers import family_of
from attar.distill.student import Student
from attar.distill.teacher import Teacher
from attar.export.bundle import in_memory, manifest
from attar.export.onnx.plain import export_plain
from attar.pipeline.parts import cut_at, prove, ship
from attar.pipeline.progress import Console
from attar.pipeline.recipe import Recipe
from attar.pipeline.report import Report
from attar.pipeline.report import write as write_report
from attar.pipeline.stages import Stages, folder_digest, key_of
from attar.pipeline.steps import Material, Runner, points, single_ms
from attar.runtime.bench.coordinator import bench
from attar.runtime.bench.overhead import overhead
from attar.runtime.bundle import Bundle, aside, write_bundle
from attar.runtime.cpu import machine
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, GateError
from attar.runtime.model import load
from attar.runtime.version import __version__


@dataclass(frozen=True)
class Data:
    """The splits and the unlabelled texts, with no sentence in two of them."""

    splits: Splits
    unlabelled: Examples


def read_data(recipe: Recipe, override: str | None = None) -> Data:
    """Reads, checks and splits the recipe's data; `override` replaces `train` by a user's own file."""
    d = recipe.data

    def labelled(spec: str) -> Examples:
        return resolve_data(spec, text=d.text_column, label=d.label_column)

    everything = labelled(override or d.train)
    if isinstance(d.dev, str) or isinstance(d.test, str):
        if not (isinstance(d.dev, str) and isinstance(d.test, str)):
            raise DataError("[data] dev and test are either both files or both sizes")
        dev, test = labelled(d.dev), labelled(d.test)
        splits = Splits(train=remove_overlap(everything, dev, test), dev=remove_overlap(dev, test), test=test)
    else:
        splits = split(everything, dev=d.dev, test=d.test, seed=d.seed)
    check_disjoint(splits)
    known = set(splits.train.labels or ())
    for part in (splits.dev, splits.test):
        unseen = sorted(set(part.labels or ()) - known)
        if unseen:
            raise DataError(f"label {unseen[0]!r} of {part.source} was never seen in training; known: {sorted(known)}")
    extra = crops(splits.train, d.crops, d.seed)
    if d.unlabelled is not None:
        given = resolve_data(d.unlabelled, text=d.text_column, require_labels=False)
        extra = Examples(extra.texts + given.texts, None, given.source)
    return Data(splits, remove_overlap(extra, splits.train, splits.dev, splits.test))


class Run:
    """One run of one recipe into one output folder."""

    def __init__(
        self, recipe: Recipe, out: Path, console: Console, *, data: str | None = None, allow_failed_gate: bool = False
    ) -> None:
        self.recipe, self.out, self.console = recipe, out, console
        self.allow_failed_gate = allow_failed_gate
        self.started = time.monotonic()
        self.data = read_data(recipe, data)
        self.stages = Stages(out / "stages")

    def __call__(self) -> Report:
        """Runs every stage that is not cached; the report. `GateError` where the gate was not passed."""
        s = self.data.splits
        self.console.line(
            f"data: {len(s.train)} train, {len(s.dev)} dev, {len(s.test)} test, {len(self.data.unlabelled)} unlabelled"
        )
        teacher = self.teacher()
        self.teacher_key = folder_digest(teacher)
        judged = self.judge_teacher(teacher)
        student, key, records = self.steps(teacher, judged["dev"])
        final, gate = self.finish(student, key)
        verdict = sentence(gate["gate"])
        self.console.line(verdict)
        report = self.report(teacher, judged, records, gate)
        if final is not None:
            publish(final / "student", self.out / "student")
            publish(final / "bundle", self.out / "bundle")
            measured = self.measure()
            report["bench"] = measured["bench"]
            report["overhead"] = measured["overhead"]
            report["bundle"] = bundle_info(self.out / "bundle", measured)
        report["seconds"] = round(time.monotonic() - self.started, 1)
        write_report(report, self.out)
        if final is None:
            left = f"; {self.out / 'bundle'} is of an earlier run" if (self.out / "bundle").exists() else ""
            raise GateError(
                f"no bundle was written{left}: {verdict}. The report is in {self.out}. Give more data, a "
                "larger margin or a gentler recipe, or use --allow-failed-gate"
            )
        return report

    def teacher(self) -> Path:
        """The teacher's folder: fine-tuned here, or copied as it is."""
        spec, train = self.recipe.teacher, self.data.splits.train
        source = resolve_model(spec.model)

        def work(folder: Path) -> dict[str, Any]:
            self.console.line("fine-tuning the teacher ...")
            base = local_folder(source)
            family_of(base)  # refused here, before hours are spent on fine-tuning it
            if spec.fine_tuned:
                shutil.copytree(base, folder / "teacher")
            else:
                finetune(base, train, spec.settings, folder / "teacher", self.console.progress)
            return {}

        identity = folder_digest(source) if isinstance(source, Path) else source
        key = key_of(identity, spec.fine_tuned, asdict(spec.settings), train.digest())
        folder, _ = self.stages.run("teacher", key, work)
        publish(folder / "teacher", self.out / "teacher")
        return folder / "teacher"

    @property
    def max_length(self) -> int:
        return self.recipe.teacher.settings.max_length

    def judge_teacher(self, folder: Path) -> dict[str, Any]:
        """The teacher in PyTorch fp32 on dev and test, and its plain fp32 ONNX export, the benchmark's baseline."""
        s = self.data.splits

        def work(part: Path) -> dict[str, Any]:
            self.console.line("judging the teacher ...")
            teacher = Teacher(folder, self.max_length)
            student = self.start(folder)
            found: dict[str, Any] = {"parameters": teacher.parameters, "layers": teacher.layers}
            for name, data in (("dev", s.dev), ("test", s.test)):
                right = student.task.correct(teacher.logits(data.texts), student.task.ids(data.labels or ()))
                found[name] = 100 * float(right.mean())
                np.save(part / f"{name}.npy", right)
            model = export_plain(folder)
            bare = in_memory(student, model=model)
            found["p50_ms"] = round(single_ms(bare, s.dev.texts), 4)
            files = {
                "model.onnx": model,
                "tokenizer.json": student.tokenizer,
                "golden.json": b'{"texts":[],"scores":[]}',
            }
            write_bundle(part / "teacher-onnx", manifest(student, "teacher fp32"), files)
            return found

        key = key_of(self.teacher_key, s.dev.digest(), s.test.digest(), self.max_length)
        self.judged, result = self.stages.run("teacher-judged", key, work)
        self.console.line(f"teacher: dev {result['dev']:.2f} %, test {result['test']:.2f} %")
        return result

    def start(self, teacher: Path) -> Student:
        """The teacher's weights as a student, before any step."""
        return cut_at(Student.load(teacher), self.max_length)

    def steps(self, teacher: Path, accuracy: float) -> tuple[Callable[[], Student], str, list[dict[str, Any]]]:
        s = self.data.splits
        material = Material(s.train, self.data.unlabelled, s.dev, teacher)
        runner = Runner(material, self.stages, self.console, self.recipe.quantizes)
        runner.teacher_key = self.teacher_key
        key = key_of(self.teacher_key, self.max_length)
        return runner.run(lambda: self.start(teacher), key, self.recipe.steps, self.max_length, {"accuracy": accuracy})

    def finish(self, student: Callable[[], Student], key: str) -> tuple[Path | None, dict[str, Any]]:
        """Parity, the gate on the exported bytes, and the bundle; no folder where the gate was not passed."""
        s = self.data.splits

        def work(part: Path) -> dict[str, Any]:
            self.console.line("parity, gate and bundle ...")
            final = student()
            judged_on = replace(s.test, source=f"test ({s.test.source})")
            proof = prove(final, s.dev.texts, judged_on, np.load(self.judged / "test.npy"), self.recipe.gate)
            passed = proof.passed or self.allow_failed_gate
            if passed:
                ship(final, proof, part / "bundle", self.recipe.name, self.allow_failed_gate)
            final.save(part / "student")
            return {
                "gate": proof.gate,
                "parity": proof.parity.to_json(),
                "dev": points(proof.runtime, s.dev),
                "passed": passed,
            }

        key = key_of(key, s.test.digest(), asdict(self.recipe.gate), self.recipe.name, self.allow_failed_gate)
        folder, result = self.stages.run("final", key, work)
        return (folder if result["passed"] else None), result

    def measure(self) -> dict[str, Any]:
        """The bundle against the teacher in PyTorch and in ONNX Runtime, and what attar itself costs."""
        spec, test = self.recipe.bench, self.data.splits.test
        bundle = self.out / "bundle"

        def work(part: Path) -> dict[str, Any]:
            self.console.line("benchmark against the teacher ...")
            against = [self.out / "teacher", self.judged / "teacher-onnx"]
            found = bench(
                bundle, against, test.texts[: spec.texts], rounds=spec.rounds,
                progress=lambda text: self.console.progress(0.5, text),
            )  # fmt: skip
            model = load(bundle)
            cost = overhead(model, test.texts[:60], spec.rounds)
            p50 = single_ms(model, self.data.splits.dev.texts)
            return {
                "bench": found.to_json(),
                "overhead": cost.to_json(),
                "p50_ms": p50,
                "dev": points(model, self.data.splits.dev),
            }

        key = key_of(folder_digest(bundle), self.teacher_key, asdict(spec), machine(), test.digest())
        return self.stages.run("bench", key, work)[1]

    def report(
        self, teacher: Path, judged: dict[str, Any], records: list[dict[str, Any]], final: dict[str, Any]
    ) -> Report:
        s = self.data.splits
        task = self.start_task(teacher)
        size = (teacher / "model.safetensors").stat().st_size / 1e6
        return {
            "title": self.recipe.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "attar": __version__,
            "task": {"kind": task["kind"], "labels": task["labels"], "metric": "accuracy"},
            "data": {
                "train": len(s.train), "dev": len(s.dev), "test": len(s.test),
                "unlabelled": len(self.data.unlabelled), "source": s.train.source,
            },
            "teacher": {
                "name": self.recipe.teacher.model, "parameters": judged["parameters"], "size_mb": round(size, 2),
                "dev": judged["dev"], "test": judged["test"], "p50_ms": judged["p50_ms"],
            },
            "stages": records,  # type: ignore[typeddict-item]  # read back from JSON
            "gate": final["gate"],
            "parity": final["parity"],
            "machine": machine(),
            "versions": {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "numpy")},
            "recipe": self.recipe.text,
        }  # fmt: skip

    def start_task(self, teacher: Path) -> dict[str, Any]:
        config = json.loads((teacher / "config.json").read_text(encoding="utf-8"))
        labels = config.get("id2label", {})
        return {"kind": "text-classification", "labels": [labels[k] for k in sorted(labels, key=int)]}


def bundle_info(path: Path, measured: dict[str, Any]) -> Any:
    """The bundle's sizes for the report."""
    bundle = Bundle.read(path)
    return {
        "size_mb": round(bundle.size / 1e6, 3),
        "files": {n: len(c) for n, c in bundle.contents.items()},
        "scheme": bundle.manifest.scheme,
        "dev": measured["dev"],
        "p50_ms": measured["p50_ms"],
    }


def publish(source: Path, target: Path) -> None:
    """Copies a stage's folder to where users look for it, as a whole; nothing where it is there already."""
    if target.is_dir() and folder_digest(source) == folder_digest(target):
        return
    with aside(target) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)
