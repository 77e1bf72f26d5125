"""The contract of every step. A new file with `Settings` and `apply` is found, and tested here, by itself."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import attar.compress
import attar.distill
from attar.distill.step import Context, find, settings_of
from attar.distill.student import Student
from attar.distill.teacher import Targets, Teacher
from attar.export import parity
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.models import EDGE_TEXTS, MAX_LENGTH, make_checkpoint, quiet, sentences

TRAIN, DEV = sentences(64, seed=3), sentences(30, seed=4)
UNLABELLED = Examples(sentences(16, seed=5).texts, None, "unlabelled")
OVERRIDES: dict[str, dict[str, Any]] = {
    "distill.distil": {"layers": (1, 2), "match": (2, 3), "epochs": 1.0},
}
"""Settings that make a step do its work on a tiny student; the defaults where a step is not named."""


def found_steps() -> dict[str, ModuleType]:
    steps = {}
    for package in (attar.distill, attar.compress):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            if hasattr(module, "Settings") and hasattr(module, "apply"):
                steps[info.name.removeprefix("attar.")] = module
    return steps


STEPS = found_steps()
EVERY = pytest.mark.parametrize("use", sorted(STEPS))


def test_the_known_steps_are_found() -> None:
    assert STEPS.keys() >= {
        "distill.distil", "compress.prune.heads", "compress.prune.ffn",
        "compress.factorize.activation_aware", "compress.quantize.int8",
    }  # fmt: skip
    assert "distill.finetune" not in STEPS  # it makes the teacher, not a student


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("steps") / "teacher", layers=3)


@pytest.fixture(scope="module")
def student(checkpoint: Path) -> Student:
    return Student.load(checkpoint)


@pytest.fixture(scope="module")
def context(checkpoint: Path) -> Context:
    teacher = Teacher(checkpoint, MAX_LENGTH)

    def targets(layers: Sequence[int]) -> Targets:
        cache = checkpoint.with_name(f"targets{list(layers)}")
        return teacher.targets(TRAIN.texts + UNLABELLED.texts, layers, cache, quiet)

    def accuracy(student: Student) -> float:
        model = in_memory(student, threads=1)
        return 100 * float(model.task.correct(model.logits(DEV.texts), model.task.ids(DEV.labels or ())).mean())

    return Context(TRAIN, UNLABELLED, DEV, targets, lambda a, b: Ratio(1.5, 1.4, 1.6, 5), accuracy, checkpoint, quiet)


RESULTS: dict[str, Student] = {}


@pytest.fixture
def result(use: str, student: Student, context: Context) -> Student:
    """The step's result, computed once; that the input was left alone is checked right there."""
    if use not in RESULTS:
        before, lineage = student.digest(), student.lineage
        settings = settings_of(STEPS[use].Settings, OVERRIDES.get(use, {}), use)
        RESULTS[use] = STEPS[use].apply(student, settings, context)
        assert student.digest() == before, "the input student was changed"
        assert student.lineage == lineage
        assert all(p.requires_grad and p.grad is None for p in student.encoder.parameters())
        assert not student.encoder.training
    return RESULTS[use]


@EVERY
def test_settings_are_frozen_and_strict(use: str) -> None:
    kind = STEPS[use].Settings
    assert dataclasses.is_dataclass(kind)
    settings = kind()
    name = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, None)
    with pytest.raises(SettingsError) as caught:
        settings_of(kind, {"surely_no_setting": 1}, use)
    assert all(part in str(caught.value) for part in (use, "'surely_no_setting'", name))
    for field in dataclasses.fields(kind):
        assert field.name in str(caught.value)
    # What lineage and cache keys record must give the same settings back.
    again = json.loads(json.dumps(dataclasses.asdict(settings)))
    assert settings_of(kind, again, use) == settings
    assert find(use) is STEPS[use]


@EVERY
def test_input_is_untouched_and_output_is_new(use: str, result: Student, student: Student) -> None:
    assert result.digest() != student.digest()
    assert not result.encoder.training
    if result.encoder is not student.encoder:
        mine = {p.data_ptr() for p in student.encoder.parameters()}
        assert not mine & {p.data_ptr() for p in result.encoder.parameters()}, "weights are shared with the input"


@EVERY
def test_lineage_gains_one_entry(use: str, result: Student, student: Student) -> None:
    assert result.lineage[:-1] == student.lineage
    entry = json.loads(json.dumps(result.lineage[-1], allow_nan=False))
    assert entry["use"] == use
    assert set(entry["settings"]) == {f.name for f in dataclasses.fields(STEPS[use].Settings)}


@EVERY
def test_reloads_to_identical_outputs(use: str, result: Student, tmp_path: Path) -> None:
    result.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    texts = [*DEV.texts, *EDGE_TEXTS]
    assert torch.equal(again.logits(texts), result.logits(texts))
    assert again.digest() == result.digest()
    assert to_onnx(again) == to_onnx(result)


@EVERY
def test_onnx_parity(use: str, result: Student) -> None:
    found = parity.check(result, [*DEV.texts, *EDGE_TEXTS])
    assert found.max_abs < 1e-4
    assert found.scheme_agreement > 90


@EVERY
def test_the_claimed_shrinkage_is_real(use: str, result: Student, student: Student) -> None:
    before, after = student.encoder.parameter_count(), result.encoder.parameter_count()
    if use.startswith(("compress.prune.", "compress.factorize.")):
        assert after < before
        assert sum(len(s.ranks) for s in result.encoder.shape.layers) or result.encoder.shape != student.encoder.shape
    else:
        assert after <= before
    if use.startswith("compress."):
        assert len(to_onnx(result)) < len(to_onnx(student))


@EVERY
def test_same_input_same_output(use: str, result: Student, student: Student, context: Context) -> None:
    settings = settings_of(STEPS[use].Settings, OVERRIDES.get(use, {}), use)
    assert STEPS[use].apply(student, settings, context).digest() == result.digest()


@pytest.mark.parametrize("use", ["compress.prune.nothing", "compress.nothing.at_all", "distill.trainer", "os.path"])
def test_what_is_not_a_step_is_refused(use: str) -> None:
    with pytest.raises(SettingsError, match=use):
        find(use)


def test_steps_follow_one_another(student: Student, context: Context) -> None:
    chain = ["compress.prune.heads", "compress.prune.ffn", "compress.factorize.activation_aware", "distill.distil",
             "compress.quantize.int8"]  # fmt: skip
    overrides = {"distill.distil": {"match": (1, 2, 3), "epochs": 0.5}}
    current = student
    for use in chain:
        current = STEPS[use].apply(current, settings_of(STEPS[use].Settings, overrides.get(use, {}), use), context)
    assert [entry["use"] for entry in current.lineage] == chain
    assert current.encoder.parameter_count() < student.encoder.parameter_count()
    parity.check(current, DEV.texts)


@pytest.mark.parametrize("use", ["compress.prune.heads", "compress.prune.ffn"])
def test_pruning_after_factorization_is_refused(use: str, student: Student, context: Context) -> None:
    step = STEPS["compress.factorize.activation_aware"]
    thin = step.apply(student, step.Settings(), context)
    with pytest.raises(SettingsError, match=r"put compress\.prune before compress\.factorize"):
        STEPS[use].apply(thin, STEPS[use].Settings(), context)
