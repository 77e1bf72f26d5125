"""The shipped recipes: each is valid and, where its data is at hand, can be started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attar.distill.step import find
from attar.pipeline.data import named_splits, read_data
from attar.pipeline.recipe import Recipe, parse, read_ladder, read_recipe
from attar.pipeline.tasks import build
from attar.runtime.errors import AssetError

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "recipes").glob("*.toml"))
LADDERS = {path.stem: read_ladder(path) for path in FILES if path.stem.endswith("-ladder")}
RECIPES = {path.stem: read_recipe(path) for path in FILES if path.stem not in LADDERS}
RECIPES |= {f"{name}/{rung.name}": rung for name, rungs in LADDERS.items() for rung in rungs}


def sources(recipe: Recipe) -> list[str]:
    """The files and assets that the recipe's [data] names."""
    d = recipe.data
    groups = [(x,) if isinstance(x, str) else x for x in (d.train, d.dev, d.test, d.outside)]
    return [name for group in groups if isinstance(group, tuple) for name in group] + [s.source for s in d.unlabelled]


def case(name: str) -> object:
    assets = any(source.startswith("asset:") for source in sources(RECIPES[name]))
    return pytest.param(name, marks=[pytest.mark.assets] if assets else [])


def test_every_kind_of_task_has_a_recipe() -> None:
    assert {recipe.task.kind for recipe in RECIPES.values()} == {
        "text-classification", "regression", "token-classification", "question-answering", "embeddings", "multi-task",
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_the_name_is_the_files_and_every_step_exists(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name.rpartition("/")[2]
    assert recipe.steps
    for step in recipe.steps:
        assert isinstance(step.settings, find(step.use).Settings)


@pytest.mark.parametrize("name", [case(name) for name in RECIPES if "/" not in name or name.endswith("/static")])
def test_its_data_reads_and_its_task_builds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # recipes name files from the project's root
    recipe = RECIPES[name]
    absent = [s for s in sources(recipe) if not s.startswith("asset:") and not Path(s).exists()]
    if absent:
        pytest.skip(f"the recipe needs {', '.join(absent)}, which is not here")
    try:
        data = read_data(recipe)
    except AssetError as error:
        pytest.skip(str(error))
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 384}))
    task = build(recipe.task, data.splits.train, recipe.teacher.settings.max_length, tmp_path)
    assert task.kind == recipe.task.kind
    parts = named_splits(task, data.splits)
    # Enough to measure a loss as small as a step may cost.
    assert min(len(parts.train), len(parts.dev), len(parts.test)) >= 150
    assert bool(data.unlabelled.texts) == (bool(recipe.data.unlabelled) or recipe.data.crops > 0)


def test_a_limit_of_loss_reaches_the_step_that_chooses_by_one() -> None:
    record = {"name": "a", "data": {"train": "a.jsonl"}, "teacher": {"model": "m"}}
    steps = [{"use": "compress.quantize.int8", "max_loss": 0.1}, {"use": "compress.prune.ffn", "max_loss": 0.2}]
    int8, ffn = parse({**record, "step": steps}).steps
    assert int8.max_loss == int8.settings.max_loss == 0.1
    assert ffn.max_loss == 0.2 and not hasattr(ffn.settings, "max_loss")
