"""Losses against numbers worked out by hand, and small real trainings."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.distill import distil, finetune
from attar.distill.methods.hidden_states import hidden_states
from attar.distill.methods.soft_targets import soft_targets
from attar.distill.step import Context, settings_of
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Teacher
from attar.distill.trainer import Schedule, TrainingError, bucketed, train
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, ModelError, SettingsError
from attar.runtime.tasks.base import Outputs
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import Encoded
from tests.models import LABELS, MAX_LENGTH, by_size, make_checkpoint, quiet, sentences

TRAIN, HELD_OUT = sentences(320, seed=1), sentences(100, seed=2)
NO_TEXTS = Examples((), None, "nothing")
TASK = TextClassification(LABELS, MAX_LENGTH)
SETTINGS = finetune.Settings(epochs=6, batch_size=16, learning_rate=3e-3, max_length=MAX_LENGTH)


def test_soft_targets_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 0.0], [2.0, -2.0]]), torch.tensor([[2 * math.log(3), 0.0], [2.0, -2.0]])
    # Softened by 2, the teacher says (3/4, 1/4) of the first text and the student (1/2, 1/2); they agree on the other.
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert soft_targets(student, teacher, 2.0).item() == pytest.approx(4 * divergence / 2, rel=1e-6)
    assert soft_targets(student, teacher, 1.0).item() == pytest.approx(
        (0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)) / 2, rel=1e-6
    )


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.floats(0.5, 8))
def test_soft_targets_of_equal_logits_are_zero(logits: list[float], temperature: float) -> None:
    a = torch.tensor([logits])
    assert soft_targets(a, a + 3, temperature).item() == pytest.approx(0.0, abs=1e-4)


def test_hidden_states_by_hand() -> None:
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]], [[0.0, 1.0], [5.0, 5.0], [5.0, 5.0]]])
    teacher = torch.tensor([[[1.0, 4.0], [3.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    # Mean squares of the three real tokens: (0 + 4) / 2, (9 + 1) / 2, (0 + 1) / 2.
    assert hidden_states(student, teacher, mask).item() == pytest.approx((2 + 5 + 0.5) / 3)
    assert hidden_states(student.bfloat16(), teacher.half(), mask).dtype == torch.float32


@given(
    lengths=st.lists(st.integers(1, 60), max_size=120),
    batch_size=st.integers(1, 17),
    pool=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_bucketed_covers_every_index_once(lengths: list[int], batch_size: int, pool: int, seed: int) -> None:
    batches = bucketed(lengths, batch_size, random.Random(seed), pool)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    assert all(1 <= len(b) <= batch_size for b in batches)
    assert batches == bucketed(lengths, batch_size, random.Random(seed), pool)


def test_bucketed_batches_have_similar_lengths() -> None:
    lengths = [i % 50 + 1 for i in range(1000)]
    batches = bucketed(lengths, 20, random.Random(0))
    assert max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) <= 1
    assert batches != bucketed(lengths, 20, random.Random(1))


def test_train_stops_at_nan_and_names_the_step() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    calls: list[int] = []

    def loss_of(chosen: list[int], _: float) -> torch.Tensor:
        calls.append(len(chosen))
        return weight.sum() * (float("nan") if len(calls) == 3 else 1.0)

    with pytest.raises(TrainingError, match=r"the loss became nan at step 3 of 5; lower learning_rate$"):
        train(iter([weight]), [1] * 10, loss_of, Schedule(1, 2, 1e-3), quiet)
    assert len(calls) == 3
    assert torch.isfinite(weight).all()


def test_train_takes_the_steps_it_says() -> None:
    weight, seen, told = torch.nn.Parameter(torch.ones(1)), [], []

    def loss_of(chosen: list[int], _: float) -> torch.Tensor:
        seen.extend(chosen)
        return weight.square().sum()

    final = train(iter([weight]), [1, 2, 3], loss_of, Schedule(2, 2, 1e-2), lambda f, line: told.append(f))
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    assert told[-1] == 1.0
    assert 0 < weight.item() < 1
    assert 0.9 < final <= 1.0


# --- fine-tuning --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("training") / "base", layers=3, trained=False)


@pytest.fixture(scope="module")
def teacher(base: Path) -> Path:
    out = base.with_name("teacher")
    finetune.finetune(base, TASK, TRAIN, SETTINGS, out, quiet)
    return out


def accuracy(student: Student, data: Examples) -> float:
    return 100 * float(student.task.statistics(student.answer, data.texts, data.labels or ())["accuracy"].mean())


def test_finetuning_learns(base: Path, teacher: Path) -> None:
    student = Student.load(teacher)
    assert student.task == TASK
    assert student.tokenizer == (base / "tokenizer.json").read_bytes()
    assert accuracy(student, HELD_OUT) > 85
    assert accuracy(Student.load(base), HELD_OUT) < 75
    assert [p for p in teacher.parent.iterdir() if p.name.startswith(".")] == []


def test_same_seed_gives_the_same_weights(base: Path, tmp_path: Path) -> None:
    short = replace(SETTINGS, epochs=0.5)
    for name, settings in (("a", short), ("b", short), ("c", replace(short, seed=1))):
        finetune.finetune(base, TASK, TRAIN, settings, tmp_path / name, quiet)
    a, b, c = (Student.load(tmp_path / name).digest() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_frozen_layers_stay(family: str, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", family)
    finetune.finetune(base, TASK, TRAIN, replace(SETTINGS, epochs=0.1, freeze_layers=1), tmp_path / "out", quiet)
    before, after = (Student.load(tmp_path / n).encoder.state_dict() for n in ("base", "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [n for n in changed if n.startswith(("words", "positions", "embedding_norm", "layers.0."))]
    assert [n for n in changed if n.startswith("layers.1.")]


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match=r"the data has 1 label\(s\); a classifier needs examples of at least two"):
        TextClassification.from_labels(("positive",) * 40, TRAIN.texts[:40], MAX_LENGTH)


def test_fewer_examples_than_a_batch_is_refused(base: Path, tmp_path: Path) -> None:
    data = Examples(TRAIN.texts[:15], (TRAIN.labels or ())[:15], "few.csv")
    with pytest.raises(DataError, match=r"few\.csv has 15 training examples, fewer than a batch of 16"):
        finetune.finetune(base, TASK, data, SETTINGS, tmp_path / "out", quiet)
    assert list(tmp_path.iterdir()) == []


def test_diverging_training_leaves_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda x, y, **_: x.sum() * float("inf"))
    with pytest.raises(TrainingError, match="at step 1 of"):
        finetune.finetune(base, TASK, TRAIN, SETTINGS, tmp_path / "out", quiet)
    assert list(tmp_path.iterdir()) == []


def test_base_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder at .*nowhere"):
        finetune.finetune(tmp_path / "nowhere", TASK, TRAIN, SETTINGS, tmp_path / "out", quiet)


# --- distillation -------------------------------------------------------------------------------------------------


def context(folder: Path, cache: Path, unlabelled: Examples = NO_TEXTS) -> Context:
    """Targets by the teacher itself, kept in `cache`."""
    tokenizer = (folder / "tokenizer.json").read_bytes()

    def supervision(student: Student, states: Sequence[str]) -> Supervision:
        texts = TRAIN.texts + unlabelled.texts
        targets = Teacher(folder, student.task).targets(texts, states, cache, quiet)
        return supervise(student, tokenizer, targets, texts)

    def outputs(student: Student) -> tuple[Encoded, Outputs]:
        encoded = student.encode(HELD_OUT.texts)
        return encoded, student.outputs(encoded)

    return Context(
        TRAIN, unlabelled, HELD_OUT, supervision, lambda a, b: Ratio(1.5, 1.4, 1.6, 5),
        lambda s: accuracy(s, HELD_OUT), outputs, folder, quiet, by_size,
    )  # fmt: skip


def methods(*match: int) -> tuple[dict[str, Any], ...]:
    """The usual three."""
    return (
        {"use": "soft_targets"}, {"use": "hidden_states", "match": match}, {"use": "labels", "weight": 0.2},
    )  # fmt: skip


DISTIL = distil.Settings((1, 3), methods(2, 3), epochs=2, batch_size=16, learning_rate=1e-3)


def test_distilling_into_fewer_layers(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Student.load(teacher)
    digest = start.digest()
    first = distil.apply(start, DISTIL, context(teacher, tmp_path / "cache"))
    assert start.digest() == digest
    assert len(first.encoder.layers) == 2
    assert first.encoder.parameter_count() < start.encoder.parameter_count()
    assert accuracy(first, HELD_OUT) > 85
    assert all(p.requires_grad for p in first.encoder.parameters())
    assert first.lineage[-1]["use"] == "distill.distil"
    assert settings_of(distil.Settings, first.lineage[-1]["settings"], "lineage") == DISTIL

    def refuse(*_: Any) -> None:
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr(Teacher, "_compute", refuse)
    again = distil.apply(start, DISTIL, context(teacher, tmp_path / "cache"))
    assert again.digest() == first.digest()
    other = distil.apply(start, replace(DISTIL, seed=1), context(teacher, tmp_path / "cache"))
    assert other.digest() != first.digest()


def test_distilling_with_unlabelled_texts(teacher: Path, tmp_path: Path) -> None:
    extra = Examples(sentences(30, seed=9).texts, None, "extra")
    settings = replace(DISTIL, epochs=0.2)
    with_extra = distil.apply(Student.load(teacher), settings, context(teacher, tmp_path / "a", extra))
    without = distil.apply(Student.load(teacher), settings, context(teacher, tmp_path / "b"))
    assert with_extra.digest() != without.digest()


def test_without_a_teacher_unlabelled_texts_are_not_read(teacher: Path, tmp_path: Path) -> None:
    """Plain fine-tuning: steps on rows without a label would teach nothing."""
    extra = Examples(sentences(64, seed=9).texts, None, "extra")
    settings = distil.Settings(methods=({"use": "labels"},), epochs=1, batch_size=16, learning_rate=1e-3)
    with_extra = distil.apply(Student.load(teacher), settings, context(teacher, tmp_path / "a", extra))
    without = distil.apply(Student.load(teacher), settings, context(teacher, tmp_path / "b"))
    assert with_extra.digest() == without.digest()


def test_taking_every_layer_changes_nothing(teacher: Path) -> None:
    student = Student.load(teacher)
    assert distil.take_layers(student, (1, 2, 3)).digest() == student.digest()
    assert (
        distil.take_layers(student, (3,)).encoder.layers[0].query.weight.equal(student.encoder.layers[2].query.weight)
    )


@pytest.mark.parametrize("wrong", [0, 4, -1])
def test_layer_that_is_not_there(wrong: int, teacher: Path) -> None:
    with pytest.raises(SettingsError, match=f"{wrong} is not one of the 3 layers"):
        distil.take_layers(Student.load(teacher), (1, wrong))


def test_match_of_another_length(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="match names 1 teacher layers, the student has 2"):
        distil.apply(Student.load(teacher), replace(DISTIL, methods=methods(1)), context(teacher, tmp_path / "cache"))


def test_targets_are_what_the_teacher_says(teacher: Path, tmp_path: Path) -> None:
    asked, texts = Teacher(teacher, TASK), [*HELD_OUT.texts[:20], "", "a " * 200]
    found = asked.targets(texts, ("hidden1", "hidden3"), tmp_path / "cache", quiet)
    student = Student.load(teacher)
    rows = found.encoded.ids
    assert rows == student.encode(texts).ids
    assert found.starts.tolist() == [0, *np.cumsum([len(r) for r in rows]).tolist()]
    exact = student.logits(texts).numpy()
    assert np.abs(np.asarray(asked.outputs(found.encoded)["logits"]) - exact).max() < 1e-5
    assert np.abs(found.heads["logits"] - exact).max() < 0.1  # bf16 passes, where the processor has them
    taught = supervise(student, student.tokenizer, found, texts)
    for i in (0, 20, 21):
        batch = taught.batch([i])
        with torch.no_grad():
            golden = student.encoder(*batch.inputs).hidden
        kept, known = taught.states("hidden1", batch, len(rows[i]))
        assert (kept.float() - golden[0]).abs().max() < 0.1
        assert known.tolist() == [[1] * len(rows[i])]
        assert (taught.states("hidden3", batch, 1)[0].float() - golden[-1]).abs().max() < 0.1
    padded, known = taught.states("hidden1", taught.batch([20, 0]), 40)
    assert padded.shape == (2, 40, 32)
    assert padded[0, len(rows[20]) :].abs().max() == 0
    assert known.sum(1).tolist() == [len(rows[20]), len(rows[0])]
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
    assert asdict(SETTINGS)["max_length"] == MAX_LENGTH
