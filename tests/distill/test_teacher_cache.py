"""What the teacher says is computed once, stored whole or not at all, and never more than is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import attar.distill.kept
import attar.distill.teacher
from attar.distill.huggingface import HuggingFace
from attar.distill.student import Student
from attar.distill.teacher import Targets, Teacher
from attar.runtime.errors import ModelError
from attar.runtime.tasks.classification import TextClassification
from tests.models import KINDS, LABELS, MAX_LENGTH, corpus, make_checkpoint, quiet, sentences

TEXTS = [*(str(text) for text in sentences(70, seed=4).texts), ""]  # two batches of the teacher's
TASK = TextClassification(LABELS, MAX_LENGTH)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return Teacher(make_checkpoint(tmp_path_factory.mktemp("cache") / "teacher", layers=3), TASK)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The states that each pass of the model was asked for."""
    passes: list[tuple[str, ...]] = []
    forward = HuggingFace.forward

    def counted(self: HuggingFace, *args: Any, states: Sequence[str] = ()) -> Any:
        passes.append(tuple(states))
        return forward(self, *args, states=states)

    monkeypatch.setattr(HuggingFace, "forward", counted)
    return passes


def same(a: Targets, b: Targets) -> bool:
    names = a.states.keys() & b.states.keys()
    return np.array_equal(a.heads["logits"], b.heads["logits"]) and all(
        np.array_equal(a.states[name], b.states[name]) for name in names
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_what_is_missing_is_computed(teacher: Teacher, tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    cache = tmp_path / "targets"
    first = teacher.targets(TEXTS, ("hidden1",), cache, quiet)
    assert asked == [("hidden1",)] * 2
    asked.clear()
    times = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    second = teacher.targets(TEXTS, ("hidden1", "query2", "hidden0"), cache, quiet)
    assert asked == [("query2", "hidden0")] * 2
    asked.clear()
    assert {name: (cache / name).stat().st_mtime_ns for name in times} == times
    third = teacher.targets(TEXTS, ("hidden0", "hidden1"), cache, quiet)
    assert asked == []
    assert same(first, second) and same(second, third)
    kept = ("head-logits", "hidden0", "hidden1", "query2", "rows")
    assert files(tmp_path) == [f"targets/{name}.npy" for name in kept]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def other_form(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


def fewer_rows(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut short": cut,
    "cut to nothing": lambda path: os.truncate(path, 0),
    "no array": lambda path: path.write_bytes(b"not numpy at all"),
    "gone": lambda path: path.unlink(),
    "another type": other_form,
    "too few rows": fewer_rows,
}


@pytest.mark.parametrize("name", ["hidden2", "head-logits"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_computed_again(
    damage: str, name: str, teacher: Teacher, tmp_path: Path, asked: list[tuple[str, ...]]
) -> None:
    cache, states = tmp_path / "targets", ("hidden2", "value1")
    whole = teacher.targets(TEXTS, states, cache, quiet)
    kept = Targets(
        whole.encoded, whole.starts, *({k: np.array(v) for k, v in m.items()} for m in (whole.heads, whole.states))
    )
    del whole  # a file that is mapped must not be cut
    asked.clear()
    DAMAGES[damage](cache / f"{name}.npy")
    again = teacher.targets(TEXTS, states, cache, quiet)
    assert asked == [("hidden2",) if name == "hidden2" else ()] * 2
    assert same(kept, again)


def interrupted(fraction: float, line: str) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_pass_goes_on_where_it_was(
    teacher: Teacher, tmp_path: Path, asked: list[tuple[str, ...]]
) -> None:
    cache, told = tmp_path / "targets-a", []
    with pytest.raises(KeyboardInterrupt):
        teacher.targets(TEXTS, ("hidden1",), cache, interrupted)
    assert files(cache) == []
    asked.clear()
    found = teacher.targets(TEXTS, ("hidden1",), cache, lambda _, line: told.append(line))
    assert told == ["teacher outputs 71/71"]
    assert asked == [("hidden1",)]
    assert files(tmp_path) == [f"targets-a/{name}.npy" for name in ("head-logits", "hidden1", "rows")]
    assert [p.name for p in tmp_path.iterdir()] == ["targets-a"]
    assert same(found, teacher.targets(TEXTS, ("hidden1",), tmp_path / "elsewhere" / "targets-b", quiet))


def test_an_interruption_spoils_nothing_that_was_there(teacher: Teacher, tmp_path: Path) -> None:
    cache, kept = tmp_path / "targets-a", ["head-logits.npy", "hidden1.npy", "rows.npy"]
    whole = teacher.targets(TEXTS, ("hidden1",), cache, quiet)
    with pytest.raises(KeyboardInterrupt):
        teacher.targets(TEXTS, ("hidden1", "hidden2"), cache, interrupted)
    assert files(cache) == kept
    assert same(whole, teacher.targets(TEXTS, ("hidden1", "hidden2"), cache, quiet))
    assert [p.name for p in tmp_path.iterdir()] == ["targets-a"]


def test_a_killed_pass_is_taken_up_and_one_for_other_texts_profits(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill runs no handler: what counts is what was on disk by then, here noted after every batch."""
    monkeypatch.setattr(attar.distill.kept, "SECONDS", 0.0)
    monkeypatch.setattr(attar.distill.kept.Stores, "__exit__", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        teacher.targets(TEXTS, (), tmp_path / "targets-a", interrupted)
    monkeypatch.undo()
    short = sorted(TEXTS, key=len)[:20]
    passes: list[str] = []
    other = teacher.targets(short, (), tmp_path / "targets-b", lambda _, line: passes.append(line))
    assert passes == []
    assert same(other, teacher.targets(short, (), tmp_path / "elsewhere" / "targets-b", quiet))


def test_a_pass_that_fails_leaves_nothing(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise ModelError("beyond fp16")

    monkeypatch.setattr(attar.distill.teacher, "half", full)
    with pytest.raises(ModelError):
        teacher.targets(TEXTS, ("hidden1",), tmp_path / "targets-a", quiet)
    assert files(tmp_path) == []


def test_states_are_rounded_to_half_precision(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By at most half a unit in the last of fp16's 11 digits, or of its smallest step, 2^-24."""
    monkeypatch.setattr(attar.distill.teacher, "autocast", lambda *_: torch.autocast("cpu", enabled=False))
    names = ("hidden0", "hidden3", "key2")
    found = teacher.targets(TEXTS, names, tmp_path / "targets", quiet)
    for row in (0, 30, 70):
        ids = torch.tensor([found.encoded.ids[row]])
        with torch.no_grad():
            exact = teacher._model(ids, torch.ones_like(ids), states=names).hidden
        for name, wanted in zip(names, exact, strict=True):
            stored = found.states[name][found.starts[row] : found.starts[row + 1]]
            assert stored.dtype == np.float16
            # 1e-5 more, as fp32 sums depend on the shape of a batch.
            bound = np.abs(wanted[0].numpy()) / 2048 + 2**-25 + 1e-5
            assert (np.abs(stored.astype(np.float32) - wanted[0].numpy()) <= bound).all()


def test_states_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "teacher")
    weights = load_file(folder / "model.safetensors")
    weights["bert.encoder.layer.0.output.LayerNorm.weight"] *= 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the teacher's hidden1 has values beyond the 65,504 of fp16"):
        Teacher(folder, TASK).targets(TEXTS, ("hidden1",), tmp_path / "targets", quiet)
    assert files(tmp_path / "targets") == []


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_a_neighbour_has_are_copied(kind: str, tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    folder = make_checkpoint(tmp_path / "teacher", kind=kind, layers=3)
    teacher = Teacher(folder, Student.load(folder).task)
    texts = list(corpus(kind, 60, seed=4).texts)
    alone = teacher.targets(texts[20:], ("hidden2",), tmp_path / "alone", quiet)
    teacher.targets(texts[:40], ("hidden2", "hidden1"), tmp_path / "targets-a", quiet, "one teacher")
    asked.clear()
    found = teacher.targets(texts[20:], ("hidden2",), tmp_path / "targets-b", quiet, "one teacher")
    assert len(asked) == 1  # one batch of the new texts
    for name, values in (*found.heads.items(), *found.states.items()):
        wanted = alone.heads.get(name, alone.states.get(name))
        assert wanted is not None
        # bf16 passes round by other batch mates.
        assert np.allclose(values, wanted, atol=0.05, rtol=0.05), name
    # Nothing is left to ask where every row is known; and everything where another teacher said it.
    asked.clear()
    teacher.targets(texts[30:50], ("hidden2",), tmp_path / "targets-c", quiet, "one teacher")
    assert not asked
    teacher.targets(texts[30:50], ("hidden2",), tmp_path / "targets-d", quiet, "another")
    assert asked


def test_a_damaged_neighbour_is_left_alone(teacher: Teacher, tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    teacher.targets(TEXTS, (), tmp_path / "targets-a", quiet, "t")
    for name, texts in (("rows.npy", TEXTS[:9]), ("head-logits.npy", TEXTS[9:18])):
        whole = (tmp_path / "targets-a" / name).read_bytes()
        (tmp_path / "targets-a" / name).write_bytes(whole[:-8])
        asked.clear()
        teacher.targets(texts, (), tmp_path / f"targets-{name}", quiet, "t")
        assert asked
        (tmp_path / "targets-a" / name).write_bytes(whole)
