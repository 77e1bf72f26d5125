"""The ways in which a teacher is measured beside a bundle: PyTorch eager, compiled and bf16, and tuned ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attar.runtime.bench.client import Subject, module_for, subject
from attar.runtime.errors import MissingExtraError, SettingsError
from attar.runtime.tasks.base import shortened

if TYPE_CHECKING:
    from attar.distill.student import Student

MODES = {"torch": "eager", "torch-compile": "compile", "torch-bf16": "bf16"}
NAMES = (*MODES, "onnx")
PACKAGES = {"torch": "bench", "transformers": "bench", "onnx": "train", "onnxscript": "train"}
"""What the baselines need, the last two `onnx` alone, and the extra that brings it."""


def baselines(against: Sequence[Path], chosen: Sequence[str], max_length: int, scratch: Path) -> list[Path | Subject]:
    """Bundles as they are, and each Hugging Face folder once for every baseline; without any, PyTorch eager.

    A missing package is refused before anything is measured: a table that lacks a row without a word would mislead.
    `scratch` takes the exports.
    """
    folders = [path for path in against if module_for(path).startswith("attar.distill")]
    for name in chosen:
        if name not in NAMES:
            raise SettingsError(f"--baseline is one of {', '.join(NAMES)}, not {name!r}")
    if chosen and not folders:
        raise SettingsError(
            f"--baseline {chosen[0]} says how a teacher is run, and there is none: name its folder with --against"
        )
    needed = list(PACKAGES)[: None if "onnx" in chosen else 2] if folders else []
    for package in needed:
        if find_spec(package) is None:
            raise MissingExtraError(package, PACKAGES[package])
    found: list[Path | Subject] = []
    for number, path in enumerate(against):
        if path not in folders or not chosen:
            found.append(path)
            continue
        for name in dict.fromkeys(chosen):
            found.append(_teacher(path, name, max_length, scratch / str(number)))
    return found


def _teacher(folder: Path, name: str, max_length: int, scratch: Path) -> Subject:
    said = f"{folder.resolve().name} {name}"
    if name != "onnx":
        return subject(folder, said, max_length, ("--mode", MODES[name]))
    found = subject(exported(folder, max_length, scratch), said, max_length)
    return replace(found, module="attar.runtime.bench.tuned")


def exported(folder: Path, max_length: int, target: Path) -> Path:
    """The teacher's plain fp32 export as a bundle, which reads `max_length` tokens."""
    from attar.export.onnx.plain import plain_files
    from attar.pipeline.outside import load_any

    student = load_any(folder)
    student = replace(student, task=shortened(student.task, max_length))
    target.mkdir(parents=True, exist_ok=True)
    write_plain(student, plain_files(folder, student.task), "fp32", target / "bundle")
    return target / "bundle"


def write_plain(student: Student, model: Mapping[str, bytes], name: str, target: Path) -> None:
    """A teacher's plain graph as a bundle to measure."""
    from attar.export.bundle import golden, in_memory, manifest
    from attar.runtime.bundle import write_bundle

    contents = {**model, "tokenizer.json": student.tokenizer, "golden.json": golden(in_memory(student, model=model))}
    write_bundle(target, manifest(student, name, model=model["model.onnx"]), contents)
