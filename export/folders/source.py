"""What a folder is made from: a bundle, a student, or a bundle and the student that it was exported from."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.bundle import manifest
from attar.export.onnx import to_onnx
from attar.runtime.bundle import Bundle, Manifest, is_bundle
from attar.runtime.engines.model_file import external_files
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Task


@dataclass(frozen=True)
class Made:
    """A folder that was written.

    Attributes:
        how: how the other system loads it, in Markdown.
        own: the file in it that is the bundle's own model.onnx, byte by byte; or nothing.
        other: what its other models are, or what was done to this one.
    """

    how: str
    own: str = ""
    other: str = ""


@dataclass(frozen=True)
class Source:
    """At least one of `bundle` and `student` is there."""

    path: Path
    manifest: Manifest
    tokenizer: bytes
    bundle: Bundle | None
    student: Student | None

    @property
    def task(self) -> Task:
        return self.manifest.task

    def model(self) -> bytes:
        """The graph as it ships."""
        if self.bundle is None:
            return to_onnx(self.weights())
        model = self.bundle.contents["model.onnx"]
        if beside := sorted(external_files(model)):
            raise SettingsError(f"{self.path} keeps weights beside its graph, in {beside[0]}, which only kserve takes")
        return model

    def fp32(self) -> bytes:
        """The graph before any quantization."""
        if self.manifest.scheme == "fp32":
            return self.model()
        return to_onnx(replace(self.weights(), plan=None))

    def weights(self) -> Student:
        """The student; `SettingsError` where only a bundle is there."""
        if self.student is None:
            raise SettingsError(
                f"this needs the weights before they were quantized or lowered, and {self.path} is a bundle: add "
                "--student and the folder of the student that it was exported from"
            )
        return self.student

    def require(self, to: str, kinds: tuple[str, ...]) -> None:
        """`SettingsError` for a task that the other system has no class for."""
        if self.task.kind not in kinds:
            raise SettingsError(f"{to} has no class for {self.task.kind}; it has for {', '.join(kinds)}")


def read_source(path: Path, student: Path | None = None) -> Source:
    """Reads a bundle or a student; `student` is the one that the bundle was exported from.

    Raises:
        SettingsError: the student is another one, or goes with no bundle.
    """
    if not is_bundle(path):
        if student is not None:
            raise SettingsError(f"--student goes with a bundle, and {path} is none: give one of the two")
        found = Student.load(path)
        return Source(path, manifest(found, path.resolve().name), found.tokenizer, None, found)
    bundle = Bundle.read(path)
    tokenizer = bundle.contents["tokenizer.json"]
    weights = None if student is None else Student.load(student)
    if weights is not None:
        if _marks(weights.tokenizer, manifest(weights, "")) != _marks(tokenizer, bundle.manifest):
            raise SettingsError(f"{path} was not exported from the student in {student}: give the one that it was")
        weights = replace(weights, task=bundle.manifest.task)
    return Source(path, bundle.manifest, tokenizer, bundle, weights)


def _marks(tokenizer: bytes, record: Manifest) -> tuple[bytes, str]:
    """What a student and its bundle have in common."""
    told = [record.task.kind, [h.outputs for h in record.task.heads], record.pad_id, record.scheme, record.lineage]
    return tokenizer, json.dumps(told)


def quantized(source: Source) -> bool:
    """Whether what ships is not fp32."""
    if source.bundle is not None:
        return source.manifest.scheme != "fp32"
    return QuantPlan.from_json(source.weights().plan) is not None
