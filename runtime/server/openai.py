"""POST /v1/embeddings as OpenAI's clients send and read it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from attar.runtime.batcher import Answered
from attar.runtime.server.exchange import MANY, answer, parse_inputs, parse_json, read_body, reply
from attar.runtime.server.models import Models
from attar.runtime.server.refusals import RefusedError
from attar.runtime.server.schemas import EMBED
from attar.runtime.tasks.base import Floats


async def embeddings(models: Models, request: Request) -> Response:
    """One vector a text, `dimensions` of it where that is given, as numbers or as base64 of little-endian float32."""
    record = parse_json(await read_body(request), EMBED)
    served = models.get(record["model"])
    task: Any = served.model.task
    if task.kind != "embeddings":
        embedders = [name for name, s in sorted(models.served.items()) if s.model.task.kind == "embeddings"]
        words = f"this model is for {task.kind}; models for embeddings here: {', '.join(embedders) or 'none'}"
        raise RefusedError(422, words, "bad input")
    given = record["input"]
    texts = parse_inputs([given] if isinstance(given, str) else given, served, "input")
    width = task.truncate or task.dimensions
    dimensions = record.get("dimensions", width)
    if dimensions > width:
        raise RefusedError(422, f"dimensions must be at most the model's {width}", "bad input")
    answered = await answer(served, texts, request)

    def written() -> Response:
        cut = dimensions if dimensions < width else 0
        return _written(served.name, answered, cut, task.normalise, record.get("encoding_format") == "base64")

    return await asyncio.to_thread(written) if len(texts) >= MANY else written()


def _written(name: str, answered: Answered, cut: int, normalise: bool, base64_: bool) -> Response:
    vectors: Sequence[Floats] = [a.values for a in answered.answers]
    if cut and vectors:
        from attar.runtime.tasks.embeddings import unit

        kept = np.stack(vectors)[:, :cut]
        vectors = list(unit(kept) if normalise else kept)
    shown: list[Any] = [_base64(v) for v in vectors] if base64_ else [v.tolist() for v in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(shown)]
    usage = {"prompt_tokens": answered.tokens, "total_tokens": answered.tokens}
    return reply({"object": "list", "data": data, "model": name, "usage": usage})


def _base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
