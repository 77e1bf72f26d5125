"""The plain JSON API: texts in, the task's answers out; and what models there are."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from attar.runtime.server.exchange import (
    MANY,
    MAX_BODY,
    answer,
    parse_input,
    parse_inputs,
    parse_json,
    read_body,
    reply,
)
from attar.runtime.server.models import Models, Served, inputs_of, labels_of
from attar.runtime.server.schemas import PREDICT
from attar.runtime.tasks.base import jsonable


async def predict(models: Models, request: Request) -> Response:
    """POST /predict, of the only model, and POST /models/NAME/predict."""
    name = request.path_params.get("name")
    served = models.only() if name is None else models.get(name)
    record = parse_json(await read_body(request), PREDICT)
    given = record.get("texts", record.get("text"))
    if isinstance(given, list) and "texts" in record:
        texts = parse_inputs(given, served, "texts")
    else:
        texts = [parse_input(given, served.model.task, "text")]
    answers = (await answer(served, texts, request)).answers
    return await asyncio.to_thread(_written, answers) if len(answers) >= MANY else _written(answers)


def _written(answers: list[Any]) -> Response:
    return reply({"answers": [jsonable(a) for a in answers]})


def about(served: Served) -> dict[str, Any]:
    """What a client may want to know of a model."""
    manifest, task = served.model.manifest, served.model.task
    return {
        "name": served.name,
        "task": task.kind,
        "inputs": list(inputs_of(task)),
        "labels": labels_of(task),
        "limits": {**manifest.limits, "max_body": MAX_BODY},
        "engine": served.model.engine.name,
    }


async def list_models(models: Models, request: Request) -> Response:
    """GET /models."""
    return reply({"models": [about(served) for _, served in sorted(models.served.items())]})


async def one_model(models: Models, request: Request) -> Response:
    """GET /models/NAME."""
    return reply(about(models.get(request.path_params["name"])))
