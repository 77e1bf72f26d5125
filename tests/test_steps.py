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

import numpy as np
import pytest

import attar.compress
import attar.distill
from attar.distill.step import Context, find, settings_of
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Teacher
from attar.export import parity
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.pipeline.steps import dev_outputs, points
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text
from tests.models import EDGE_TEXTS, by_size, corpus, inputs, make_checkpoint, quiet

KINDS = ("text-classification", "multi-task", "question-answering")
"""A head on the first token; one of these and one on every token, in windows; and one on the tokens of a pair."""
OVERRIDES: dict[str, dict[str, Any]] = {
    "distill.distil": {
        "layers": (1, 2),
        "epochs": 1.0,
        "methods": ({"use": "soft_targets"}, {"use": "hidden_states", "match": (2, 3)}, {"use": "labels"}),
    },
    "compress.prune.gradual": {"stages": 2, "distil": {"epochs": 0.5}},
    "compress.prune.latency": {"group": 8, "levels": 4, "speedup": 1.3},
    "compress.prune.width": {"group": 8},
    "distill.students.encoder": {"layers": (1, 3), "width": 24},
    "distill.students.static": {"width": 16, "hidden": 24, "bigrams": 50},
    "distill.students.tfidf": {"bigrams": 50},
    "distill.students.recurrent": {"width": 16, "hidden": 12},
    "distill.students.convolutional": {"width": 16, "filters": 12},
    "compress.rows": {"max_loss": 100.0},
}
"""Settings that make a step do its work on a tiny student; the defaults where a step is not named."""
REFUSED = {(f"distill.students.{name}", kind) for name in ("static", "tfidf") for kind in KINDS[1:]}
"""Steps that cannot serve a kind, and say so."""
ZEROS = {"compress.prune.sparse"}
"""Steps that write zeros in place: they claim no shrinkage, and there is none."""
IDLE = {("distill.calibrate", "multi-task"), ("distill.calibrate", "question-answering")}
"""Steps with nothing to do for a kind: they say that they ran, and change nothing."""


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
        "compress.factorize.activation_aware", "compress.quantize.int8", "compress.vocabulary", "distill.calibrate",
    }  # fmt: skip
    assert "distill.finetune" not in STEPS  # it makes the teacher, not a student


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("steps") / "teacher", kind=kind, layers=3)


@pytest.fixture(scope="module")
def student(checkpoint: Path) -> Student:
    return Student.load(checkpoint)


@pytest.fixture(scope="module")
def context(kind: str, checkpoint: Path) -> Context:
    train, dev = corpus(kind, 64, seed=3), corpus(kind, 30, seed=4)
    unlabelled = Examples(corpus(kind, 16, seed=5).texts, None, "unlabelled")
    tokenizer, texts = (checkpoint / "tokenizer.json").read_bytes(), train.texts + unlabelled.texts
    teacher = Teacher(checkpoint, Student.load(checkpoint).task)

    def supervision(student: Student, states: Sequence[str]) -> Supervision:
        found = teacher.targets(texts, states, checkpoint.with_name("targets"), quiet)
        return supervise(student, tokenizer, found, texts)

    return Context(
        train, unlabelled, dev, supervision, lambda a, b: Ratio(1.5, 1.4, 1.6, 5),
        lambda student: points(in_memory(student, threads=1), dev), lambda student: dev_outputs(student, dev),
        checkpoint, quiet, by_size,
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts(kind: str, context: Context) -> tuple[Text, ...]:
    """Real texts and those at the edges, as the kind reads them."""
    return (*context.dev.texts, *inputs(kind, EDGE_TEXTS))


RESULTS: dict[tuple[str, str], Student] = {}


@pytest.fixture
def result(use: str, kind: str, student: Student, context: Context) -> Student:
    """The step's result, computed once; that the input was left alone is checked right there."""
    if (use, kind) not in RESULTS:
        before, lineage = student.digest(), student.lineage
        settings = settings_of(STEPS[use].Settings, OVERRIDES.get(use, {}), use)
        if (use, kind) in REFUSED:
            with pytest.raises(SettingsError, match="use another student"):
                STEPS[use].apply(student, settings, context)
            pytest.skip("refused, as it should be")
        RESULTS[use, kind] = STEPS[use].apply(student, settings, context)
        assert student.digest() == before, "the input student was changed"
        assert student.lineage == lineage
        assert all(p.requires_grad and p.grad is None for p in student.encoder.parameters())
        assert not student.encoder.training
    return RESULTS[use, kind]


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
def test_input_is_untouched_and_output_is_new(use: str, kind: str, result: Student, student: Student) -> None:
    assert (result.digest() == student.digest()) == ((use, kind) in IDLE)
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
def test_reloads_to_identical_outputs(use: str, result: Student, texts: tuple[Text, ...], tmp_path: Path) -> None:
    result.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    mine, theirs = (parity.flat(s.outputs(s.encode(texts))) for s in (again, result))
    assert mine.keys() == theirs.keys() == {h.name for h in result.task.heads}
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert again.digest() == result.digest()
    assert to_onnx(again) == to_onnx(result)


@EVERY
def test_onnx_parity(use: str, result: Student, texts: tuple[Text, ...]) -> None:
    found = parity.check(result, texts)
    assert found.max_abs < 1e-4
    assert found.scheme_agreement > 90


@EVERY
def test_the_claimed_shrinkage_is_real(use: str, result: Student, student: Student) -> None:
    before, after = student.encoder.parameter_count(), result.encoder.parameter_count()
    if use in ZEROS:
        assert result.encoder.shape == student.encoder.shape and len(to_onnx(result)) == len(to_onnx(student))
        return
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
    overrides = {"distill.distil": {"methods": ({"use": "soft_targets"}, {"use": "hidden_states"}), "epochs": 0.5}}
    current = student
    for use in chain:
        current = STEPS[use].apply(current, settings_of(STEPS[use].Settings, overrides.get(use, {}), use), context)
    assert [entry["use"] for entry in current.lineage] == chain
    assert current.encoder.parameter_count() < student.encoder.parameter_count()
    parity.check(current, context.dev.texts)


@pytest.mark.parametrize("use", ["compress.prune.heads", "compress.prune.ffn"])
def test_pruning_after_factorization_is_refused(use: str, student: Student, context: Context) -> None:
    step = STEPS["compress.factorize.activation_aware"]
    thin = step.apply(student, step.Settings(), context)
    with pytest.raises(SettingsError, match=r"put compress\.prune before compress\.factorize"):
        STEPS[use].apply(thin, STEPS[use].Settings(), context)
