"""A recipe run end to end: data, teacher, steps, gate on the final bytes, bundle, benchmark, report."""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attar.compress.gate import sentence
from attar.distill import processes
from attar.distill.checkpoint import TASK
from attar.distill.data.assets import resolve_model
from attar.distill.device import CPU, described
from attar.distill.finetune import finetune, local_folder
from attar.distill.importers import check_family
from attar.distill.student import Student
from attar.distill.teacher import Teacher
from attar.export.bundle import describe, in_memory, manifest
from attar.export.onnx.plain import plain_files
from attar.pipeline.data import named_splits, read_data
from attar.pipeline.fit import check_labels, cut_at, fitting
from attar.pipeline.progress import Console
from attar.pipeline.proof import Shipping, prove, ship
from attar.pipeline.recipe import Recipe
from attar.pipeline.remarks import remarks
from attar.pipeline.report import Report
from attar.pipeline.report import write as write_report
from attar.pipeline.stages import Stages, folder_digest, key_of, publish
from attar.pipeline.steps import Material, Runner, measures, points, score, set_apart, single_ms, statistics
from attar.pipeline.tasks import build
from attar.pipeline.teachers import ensemble_of
from attar.runtime import metrics
from attar.runtime.bench.coordinator import bench
from attar.runtime.bench.overhead import overhead
from attar.runtime.bundle import Bundle, write_bundle
from attar.runtime.cpu import machine
from attar.runtime.errors import DataError, GateError, SettingsError
from attar.runtime.model import Model, load
from attar.runtime.tasks.base import Task, softmax
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.version import __version__


class Run:
    """One run of one recipe into one output folder; the teacher and all that it said are kept in `home`, where given,
    for other runs with the same teacher. The `device` is where training and the teacher's passes are."""

    def __init__(
        self, recipe: Recipe, out: Path, console: Console, *, data: str | None = None, allow_failed_gate: bool = False,
        home: Path | None = None, device: torch.device = CPU,
    ) -> None:  # fmt: skip
        self.recipe, self.out, self.console = recipe, out, console
        self.home, self.device = home or out, device
        self.allow_failed_gate = allow_failed_gate
        self.started = time.monotonic()
        self.data = read_data(recipe, data)
        source = resolve_model(recipe.teacher.model)
        self.base = local_folder(source)
        check_family(self.base)  # refused here, before hours are spent on fine-tuning it
        self.task = self._task()
        self.data = replace(self.data, splits=named_splits(self.task, self.data.splits))
        self.ensemble = ensemble_of(recipe, self.task, self.base)
        if self.data.outside.texts and not isinstance(self.task, TextClassification):
            raise SettingsError("[data] outside is for text classification: it asks how sure the classifier is")
        self.stages = Stages(out / "stages")
        self.shared = Stages(self.home / "stages") if home else self.stages

    def _task(self) -> Task:
        spec = self.recipe.teacher
        if spec.fine_tuned and self.recipe.task.kind != "embeddings":
            task = cut_at(Student.load(self.base), spec.settings.max_length).task
            check_labels(task, self.data.splits.train, spec.model)
            return fitting(task, self.data.splits.train.texts)
        s = self.data.splits
        try:
            return build(self.recipe.task, s.train, spec.settings.max_length, self.base, s.dev)
        except DataError as error:
            raise DataError(f"{s.train.source}: {error}") from error

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
        if processes.leads():
            write_report(report, self.out)
        processes.wait()  # a launcher ends them all as soon as one fails, and the report must be whole by then
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

        def work(folder: Path) -> dict[str, Any]:
            if spec.fine_tuned:
                shutil.copytree(self.base, folder / "teacher")
                record = json.dumps(self.task.to_json(), indent=1, ensure_ascii=False)
                (folder / "teacher" / TASK).write_text(record + "\n", encoding="utf-8")
            else:
                self.console.line("fine-tuning the teacher ...")
                finetune(
                    self.base, self.task, train, spec.settings, folder / "teacher", self.console.progress,
                    self.shared.checkpoints("teacher", key), self.device,
                )  # fmt: skip
            return {} if spec.fine_tuned else {"trained_on": described(self.device)}

        key = key_of(
            folder_digest(self.base), spec.fine_tuned, asdict(spec.settings), self.task.to_json(), train.digest()
        )
        folder, result = self.shared.run("teacher", key, work, together=not spec.fine_tuned)
        self.trained_on: str | None = result.get("trained_on")
        publish(folder / "teacher", self.home / "teacher")
        return folder / "teacher"

    def judge_teacher(self, folder: Path) -> dict[str, Any]:
        """The teacher in PyTorch fp32 on dev and test, and its plain fp32 ONNX export, the benchmark's baseline."""
        s, outside = self.data.splits, self.data.outside

        def work(part: Path) -> dict[str, Any]:
            self.console.line("judging the teacher ...")
            teacher = Teacher(folder, self.task, self.device)
            student = self.start(folder)
            found: dict[str, Any] = {"parameters": teacher.parameters, "layers": teacher.layers, "measures": {}}
            for name, data in (("dev", s.dev), ("test", s.test)):
                stats = statistics(self.task, teacher.answer, data)
                found[name] = score(self.task, stats)
                found["measures"][name] = measures(stats)
                np.savez(part / f"{name}.npz", **stats)  # type: ignore[arg-type]  # names are the measures
            if outside.texts:
                found["auroc"] = set_apart(teacher.answer, s.test, outside)
            model = plain_files(folder, self.task)
            bare = in_memory(student, model=model)
            found["p50_ms"] = round(single_ms(bare, s.dev.texts), 4)
            files = {
                **model,
                "tokenizer.json": student.tokenizer,
                "golden.json": b'{"texts":[],"outputs":[]}',
            }
            write_bundle(part / "teacher-onnx", manifest(student, "teacher fp32", model=files["model.onnx"]), files)
            return found

        key = key_of(self.teacher_key, s.dev.digest(), s.test.digest(), outside.digest(), self.task.to_json())
        self.judged, result = self.shared.run("teacher-judged", key, work)
        self.console.line(f"teacher: dev {result['dev']:.2f}, test {result['test']:.2f} ({', '.join(self.task.gates)})")
        return result

    def start(self, teacher: Path) -> Student:
        """The teacher's weights as a student, before any step."""
        return replace(Student.load(teacher), task=self.task)

    def steps(self, teacher: Path, before: float) -> tuple[Callable[[], Student], str, list[dict[str, Any]]]:
        s = self.data.splits
        material = Material(self.task, s.train, self.data.unlabelled, s.dev, teacher, self.ensemble)
        runner = Runner(material, self.stages, self.console, self.recipe.quantizes, self.device)
        runner.teacher_key, runner.targets = self.teacher_key, self.shared.root
        key = key_of(self.teacher_key, self.task.to_json())
        return runner.run(lambda: self.start(teacher), key, self.recipe.steps, self.task.max_length, {"score": before})

    def finish(self, student: Callable[[], Student], key: str) -> tuple[Path | None, dict[str, Any]]:
        """Parity, the gate on the exported bytes, and the bundle; no folder where the gate was not passed."""
        s = self.data.splits

        def work(part: Path) -> dict[str, Any]:
            self.console.line("parity, gate and bundle ...")
            final = student()
            judged_on = replace(s.test, source=f"test ({s.test.source})")
            with np.load(self.judged / "test.npz") as reference:
                proof = prove(final, s.dev.texts, judged_on, dict(reference), self.recipe.gate)
            passed = proof.passed or self.allow_failed_gate
            if passed:
                ship(final, proof, Shipping(part / "bundle", self.allow_failed_gate), self.recipe.name)
            final.save(part / "student")
            return {
                "gate": proof.gate,
                "parity": proof.parity.to_json(),
                "dev": points(proof.runtime, s.dev),
                "test": proof.measures,
                "passed": passed,
                **self.confidence(proof.runtime),
            }

        key = key_of(
            key,
            s.test.digest(),
            self.data.outside.digest(),
            asdict(self.recipe.gate),
            self.recipe.name,
            self.allow_failed_gate,
        )
        folder, result = self.stages.run("final", key, work)
        return (folder if result["passed"] else None), result

    def confidence(self, model: Model) -> dict[str, Any]:
        """What a classifier's score is worth on test: its calibration error, and how it sets foreign texts apart."""
        task, test, outside = model.task, self.data.splits.test, self.data.outside
        if not isinstance(task, TextClassification) or task.multi_label:
            return {}
        logits, targets = model.logits(test.texts), [task.labels.index(label) for label in test.labels or ()]
        found: dict[str, Any] = {"temperature": task.temperature}
        for name, t in (("ece_uncalibrated", 1.0), ("ece", task.temperature)):
            probabilities = softmax(logits / np.float32(t))
            found[name] = round(metrics.expected_calibration_error(probabilities, np.array(targets)), 4)
        if outside.texts:
            found["auroc"] = set_apart(model.answer, test, outside)
        return {"confidence": found}

    def measure(self) -> dict[str, Any]:
        """The bundle against the teacher in PyTorch and in ONNX Runtime, and what attar itself costs."""
        spec, test = self.recipe.bench, self.data.splits.test
        bundle = self.out / "bundle"

        def work(part: Path) -> dict[str, Any]:
            self.console.line("benchmark against the teacher ...")
            against = [self.home / "teacher", self.judged / "teacher-onnx"]
            texts = self.task.inputs(test.texts)
            found = bench(
                bundle, against, texts[: spec.texts], rounds=spec.rounds,
                progress=lambda text: self.console.progress(0.5, text),
            )  # fmt: skip
            model = load(bundle)
            cost = overhead(model, texts[:60], spec.rounds)
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
        size = (teacher / "model.safetensors").stat().st_size / 1e6
        return {
            "title": self.recipe.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "attar": __version__,
            "task": {"kind": self.task.kind, "what": describe(self.task), "metric": " and ".join(self.task.gates)},
            "data": {
                "train": len(s.train), "dev": len(s.dev), "test": len(s.test),
                "unlabelled": len(self.data.unlabelled), "source": s.train.source,
            },
            "teacher": {
                "name": self.recipe.teacher.model, "parameters": judged["parameters"], "size_mb": round(size, 2),
                "dev": judged["dev"], "test": judged["test"], "p50_ms": judged["p50_ms"],
                "trained_on": self.trained_on,
            },
            "stages": records,  # type: ignore[typeddict-item]  # read back from JSON
            "warnings": remarks(records, judged["dev"], final["dev"], len(s.dev)),
            "gate": final["gate"],
            "parity": final["parity"],
            "measures": {"teacher": judged["measures"]["test"], "student": final["test"]},
            "confidence": {**final.get("confidence", {}), "auroc_teacher": judged.get("auroc")},  # type: ignore[typeddict-item]
            "machine": machine(),
            "versions": {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime", "numpy")},
            "recipe": self.recipe.text,
        }  # fmt: skip


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
