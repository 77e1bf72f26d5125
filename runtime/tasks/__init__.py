"""One file a task: text in, arrays, typed answer; and the metric that judges it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.tasks.base import Task

KINDS = {
    "text-classification": "classification.TextClassification",
    "regression": "regression.Regression",
    "token-classification": "tokens.TokenClassification",
    "question-answering": "qa.QuestionAnswering",
    "embeddings": "embeddings.Embedding",
    "multi-task": "multi.MultiTask",
}


def task_class(kind: str) -> type[Task]:
    """The class of a task kind, imported only now: a service pays for the task that it serves."""
    if kind not in KINDS:
        raise SettingsError(f"task {kind!r} is unknown to this version of attar; known: {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(".")
    found: type[Task] = getattr(importlib.import_module(f"attar.runtime.tasks.{module}"), name)
    return found


def task_of(record: Mapping[str, Any]) -> Task:
    """The task that `to_json` described; `BundleError` for one that a newer attar wrote."""
    try:
        return task_class(record["kind"]).from_json(record)
    except SettingsError as error:
        raise BundleError(f"{error}; upgrade attar") from error
