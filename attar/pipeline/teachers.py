"""The further teachers of a recipe: do they say the same things of the same texts as the first?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.distill.checkpoint import read_config, read_task, read_tokenizer
from attar.distill.data.assets import resolve_model
from attar.distill.ensemble import Ensemble, Member
from attar.distill.finetune import local_folder
from attar.pipeline.fit import names_of, parts_of
from attar.pipeline.recipe import Recipe
from attar.pipeline.stages import folder_digest
from attar.runtime.errors import ModelError, SettingsError
from attar.runtime.tasks.base import Task


def ensemble_of(recipe: Recipe, task: Task, first: Path) -> Ensemble:
    """The recipe's further teachers beside the one in `first`; the message of a refusal names folder and remedy."""
    spec = recipe.teacher
    if not spec.more:
        return Ensemble()
    if any(head.objective == "vector" for head in task.heads):
        raise SettingsError(
            "[teacher] more does not go with embeddings: the vectors of two teachers lie in spaces of their own, so "
            "their mean says nothing; leave it out"
        )
    if spec.ensemble == "weighted" and any(head.objective == "value" for head in task.heads):
        raise SettingsError(
            "[teacher] ensemble = 'weighted' weighs teachers by how sure they are, which a number does not tell; use "
            "ensemble = 'average'"
        )
    folders = [local_folder(resolve_model(name)) for name in spec.more]
    return Ensemble(tuple(_member(folder, task, first) for folder in folders), spec.ensemble)


def _member(folder: Path, task: Task, first: Path) -> Member:
    positions = int(read_config(folder).get("max_position_embeddings") or task.max_length)
    own = read_task(folder, positions)
    if own.kind != task.kind or _meaning(own) != _meaning(task):
        raise ModelError(
            f"[teacher] more: {folder} answers {own.kind} with {_names(own)}, the first teacher {task.kind} with "
            f"{_names(task)}; give teachers of the same task with the same labels in the same order"
        )
    if positions < task.max_length:
        raise ModelError(
            f"[teacher] more: {folder} reads at most {positions} tokens, and the task {task.max_length}; "
            f"set max_length = {positions} in [teacher]"
        )
    tokens = any(head.reads == "tokens" for head in task.heads)
    if tokens and read_tokenizer(folder) != read_tokenizer(first):
        raise ModelError(
            f"[teacher] more: {folder} has another tokenizer.json than the first teacher, and what is said of tokens "
            "can only be averaged over the same tokens; give teachers with the same tokenizer"
        )
    return Member(folder, folder_digest(folder), own)


def _meaning(task: Task) -> list[Any]:
    """What the outputs stand for, in their order."""
    return [[(h.outputs, h.objective) for h in task.heads], *names_of(task)]


def _names(task: Task) -> str:
    named = [name for part in parts_of(task) for name in getattr(part, "labels", ()) or getattr(part, "tags", ())]
    shown = ", ".join(named[:8]) + (", ..." if len(named) > 8 else "")
    several = any(head.objective == "labels" for head in task.heads)
    return f"{'any' if several else 'one'} of the labels {shown}" if named else "no labels"
