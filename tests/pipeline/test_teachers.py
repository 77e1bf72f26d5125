"""Recipes with several teachers, and with a student of its teacher's own architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.cli import main
from attar.distill.distil import Settings
from attar.distill.ensemble import averaged
from attar.distill.huggingface import HuggingFace
from attar.distill.methods.soft_targets import soft_targets
from attar.distill.student import Student
from attar.distill.teacher import Teacher
from attar.pipeline.progress import Console
from attar.pipeline.recipe import Recipe, StepSpec, parse, read_recipe
from attar.pipeline.run import Run
from attar.pipeline.stages import Stages
from attar.pipeline.steps import Material, Runner
from attar.pipeline.teachers import ensemble_of
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import AttarError, ModelError, SettingsError
from attar.runtime.tasks.base import Task
from tests.models import TAGS, corpus, make_checkpoint, quiet, sentences

TRAIN, MORE, DEV = (sentences(n, seed) for n, seed in ((60, 1), (40, 2), (30, 3)))
SMALL = {"layers": 1, "hidden": 16, "ffn": 32, "heads": 2}


def recipe(*more: Path | str, **teacher: Any) -> Recipe:
    table = {"model": "unused", "more": [str(path) for path in more], **teacher}
    return parse({"name": "x", "data": {"train": "unused"}, "teacher": table})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers first/, second/ (deeper and wider) and third/ (of another family, which has other tokens)."""
    folder = tmp_path_factory.mktemp("teachers")
    make_checkpoint(folder / "first", **SMALL)
    make_checkpoint(folder / "second", layers=2, hidden=24, seed=1)
    make_checkpoint(folder / "third", "mpnet", seed=2, **SMALL)
    return folder


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.pipeline.steps.speedup", lambda *_: Ratio(1.0, 0.9, 1.1, 11))


def material(models: Path, *more: str, how: str = "average") -> Material:
    task = Student.load(models / "first").task
    spec = recipe(*(models / name for name in more), **({"ensemble": how} if more else {}))
    unlabelled = Examples(MORE.texts, None, "more")
    return Material(task, TRAIN, unlabelled, DEV, models / "first", ensemble_of(spec, task, models / "first"))


def runner(material: Material, root: Path) -> Runner:
    return Runner(material, Stages(root), Console(), quantizes=False)


@pytest.mark.parametrize("how", ["average", "weighted"])
def test_soft_targets_are_those_of_all_teachers_and_states_of_the_first(
    models: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = material(models, "second", "third", how=how)
    student, texts = Student.load(models / "first"), TRAIN.texts + MORE.texts
    taught = runner(m, tmp_path / "cache").context(32).supervision(student, ("hidden1",))
    alone = [
        Teacher(models / name, replace(m.task, max_length=32)).targets(texts, (), tmp_path / name, quiet)  # type: ignore[call-arg]
        for name in ("first", "second", "third")
    ]
    wanted = averaged(m.task.heads[0], [a.heads["logits"] for a in alone], how, alone[0].starts)
    np.testing.assert_array_equal(taught.targets.heads["logits"], wanted)
    assert not np.allclose(wanted, alone[0].heads["logits"], atol=0.1)
    assert taught.width("hidden1") == 16 and taught.depth == 1
    # All of them are kept: another run asks no model.
    monkeypatch.setattr(HuggingFace, "forward", None)
    again = runner(m, tmp_path / "cache").context(32).supervision(student, ("hidden1",))
    np.testing.assert_array_equal(again.targets.heads["logits"], wanted)


def test_tags_are_averaged_over_the_same_tokens(tmp_path: Path) -> None:
    folders = [make_checkpoint(tmp_path / str(i), kind="token-classification", seed=i, **SMALL) for i in range(2)]
    data = corpus("token-classification", 40)
    student = Student.load(folders[0])
    ensemble = ensemble_of(recipe(folders[1]), student.task, folders[0])
    m = Material(student.task, data, Examples((), None, "nothing"), data, folders[0], ensemble)
    taught = runner(m, tmp_path / "cache").context(student.task.max_length).supervision(student, ())
    found = taught.targets.heads["logits"]
    assert found.shape == (taught.targets.starts[-1], len(TAGS))
    alone = Teacher(folders[0], student.task).targets(data.texts, (), tmp_path / "alone", quiet)
    assert not np.allclose(found, alone.heads["logits"], atol=0.1)


def test_the_cache_knows_teachers_their_order_and_how_they_are_averaged(models: Path) -> None:
    every = [
        material(models), material(models, "second"), material(models, "second", "third"),
        material(models, "third", "second"), material(models, "second", how="weighted"),
    ]  # fmt: skip
    assert len({m.digest() for m in every}) == len(every)
    assert material(models, "second").digest() == every[1].digest()


def divergence(student: Student, teacher: torch.Tensor) -> float:
    return float(soft_targets(student.logits(TRAIN.texts + MORE.texts), teacher, 1.0))


def test_a_student_of_the_teachers_own_architecture(models: Path, tmp_path: Path) -> None:
    """Born again (Furlanello et al. 2018): with soft targets of itself alone it stays, of an ensemble it learns."""
    spec = StepSpec("distill.distil", Settings(methods=({"use": "soft_targets"},), epochs=8, learning_rate=1e-3))
    start, found = Student.load(models / "first"), {}
    for name, m in (("alone", material(models)), ("ensemble", material(models, "second"))):
        work = runner(m, tmp_path / name)
        load, _, records = work.run(lambda: start, "start", [spec], 48)
        assert records[0]["parameters"] == start.encoder.parameter_count()
        taught = torch.from_numpy(np.array(work.context(48).supervision(start, ()).targets.heads["logits"]))
        found[name] = divergence(start, taught), divergence(load(), taught)
    assert max(found["alone"]) < 1e-3
    before, after = found["ensemble"]
    assert after < before / 2


def test_the_verb_distill_reads_the_teachers_of_the_recipe(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f'"{text}",{label}' for text, label in zip(TRAIN.texts, TRAIN.labels or (), strict=True)]
    Path("train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    text = (
        'name = "x"\n[data]\ntrain = "train.csv"\nreplacements = 1\nngrams = 1\n'
        f'[teacher]\nmodel = "{models / "first"}"\nfine_tuned = true\nmore = ["{{more}}"]\nmax_length = 32\n'
        '[[step]]\nuse = "distill.distil"\nmethods = [{ use = "soft_targets" }]\nepochs = 1\n'
    )
    Path("recipe.toml").write_text(text.replace("{more}", str(models / "second")))
    command = ["distill", str(models / "first"), "--data", "train.csv", "--recipe", "recipe.toml", "--out", "student"]
    assert main(command) == 0
    assert Student.load(tmp_path / "student").encoder.shape == Student.load(models / "first").encoder.shape
    run = Run(read_recipe(tmp_path / "recipe.toml"), tmp_path / "out", Console())
    assert [member.folder for member in run.ensemble.members] == [models / "second"]
    Path("recipe.toml").write_text(text.replace("{more}", "absent/"))
    assert main(["run", "recipe.toml", "--out", "new"]) == 2


def made(tmp_path: Path, name: str, kind: str, **options: Any) -> tuple[Path, Task]:
    folder = make_checkpoint(tmp_path / name, kind=kind, **{**SMALL, **options})
    return folder, Student.load(folder).task


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, {"labels": ("positive", "negative")}, r"one of the labels positive, negative, the first .* negative, pos"),
        ({}, {"labels": ("a", "b", "c")}, "give teachers of the same task with the same labels in the same order"),
        ({}, {"kind": "multi-label"}, "with any of the labels negative, positive, the first teacher .* with one of"),
        ({}, {"kind": "regression"}, "answers regression with no labels, the first teacher text-classification"),
        ({"kind": "token-classification"}, {"kind": "token-classification", "family": "mpnet"}, "another tokenizer"),
        ({"kind": "question-answering"}, {"kind": "question-answering", "family": "mpnet"}, "the same tokenizer"),
        ({}, {"max_position_embeddings": 16}, r"reads at most 16 tokens, and the task 48; set max_length = 16 in"),
    ],
)
def test_teachers_that_do_not_fit_together(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    folder, task = made(tmp_path, "first", **{"kind": "text-classification", **first})
    other, _ = made(tmp_path, "second", **{"kind": "text-classification", **second})
    with pytest.raises(ModelError, match=words) as refused:
        ensemble_of(recipe(other), task, folder)
    assert str(other) in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "table", "words"),
    [
        ("embeddings", {}, "more does not go with embeddings: .* leave it out"),
        ("regression", {"ensemble": "weighted"}, "which a number does not tell; use ensemble = 'average'"),
    ],
)
def test_tasks_without_an_average(tmp_path: Path, kind: str, table: dict[str, str], words: str) -> None:
    folder, task = made(tmp_path, "first", kind)
    with pytest.raises(SettingsError, match=words):
        ensemble_of(recipe(folder, **table), task, folder)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"more": "path"}, r"\[teacher\] more must be a list of models, like \[\"path/to/model\"\], not 'path'"),
        ({"more": [1]}, "more must be a list of models"),
        ({"more": ["a"], "ensemble": "vote"}, "ensemble 'vote' is unknown; known: average, weighted"),
        ({"ensemble": "weighted"}, "name the others in more"),
    ],
)
def test_what_the_teachers_table_may_not_say(table: dict[str, Any], words: str) -> None:
    with pytest.raises(AttarError, match=words):
        parse({"name": "x", "data": {"train": "t"}, "teacher": {"model": "m", **table}})
