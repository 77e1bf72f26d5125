"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensor data: what tritonclient speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from attar.runtime.server.columns import Column, as_bytes, as_list
from attar.runtime.server.exchange import MANY, answer, as_json, parse_json, read_body, reply
from attar.runtime.server.models import Models
from attar.runtime.server.refusals import RefusedError
from attar.runtime.server.schemas import INFER
from attar.runtime.server.tensors import SERVER, VERSION, bad, inference, signature

HEADER = "inference-header-content-length"


async def server(models: Models, request: Request) -> Response:
    """GET /v2."""
    return reply(SERVER)


async def live(models: Models, request: Request) -> Response:
    """GET /v2/health/live."""
    return reply({"live": True})


async def ready(models: Models, request: Request) -> Response:
    """GET /v2/health/ready."""
    return reply({"ready": models.state == "ready"}, 200 if models.state == "ready" else 503)


async def model_ready(models: Models, request: Request) -> Response:
    """GET /v2/models/NAME/ready."""
    return reply({"name": models.get(request.path_params["name"]).name, "ready": True})


async def metadata(models: Models, request: Request) -> Response:
    """GET /v2/models/NAME."""
    return reply(signature(models.get(request.path_params["name"])))


async def infer(models: Models, request: Request) -> Response:
    """POST /v2/models/NAME/infer."""
    served = models.get(request.path_params["name"])
    header, binary = _split(await read_body(request), request.headers.get(HEADER))
    record = parse_json(header, INFER)
    asked = inference(record, _binaries(record["inputs"], binary), served)
    answered = await answer(served, asked.texts, request, asked.timeout)
    found = {"model_name": served.name, "model_version": VERSION} | ({"id": record["id"]} if "id" in record else {})
    if len(asked.texts) >= MANY:
        return await asyncio.to_thread(_written, found, asked.outputs, answered.answers)
    return _written(found, asked.outputs, answered.answers)


def _split(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body, and the binary tensors behind it."""
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body)):
        raise RefusedError(400, "Inference-Header-Content-Length is not a length within the body", "bad json")
    return body[: int(length)], body[int(length) :]


def _binaries(inputs: Sequence[Mapping[str, Any]], binary: bytes) -> list[bytes | None]:
    """The binary data of each input; None where it has none."""
    found: list[bytes | None] = []
    for tensor in inputs:
        size = tensor.get("parameters", {}).get("binary_data_size")
        if (size is None) != ("data" in tensor):
            raise bad("an input needs either data or, for binary data behind the JSON, the parameter binary_data_size")
        if size is not None and size > len(binary):
            raise bad("there is less binary data than an input's binary_data_size says")
        found.append(None if size is None else binary[:size])
        binary = binary[size or 0 :]
    if binary:
        raise bad("there is binary data that belongs to no input: give each its binary_data_size")
    return found


def _written(found: dict[str, Any], asked: Sequence[tuple[Column, bool]], answers: Sequence[Any]) -> Response:
    outputs, parts = [], []
    for column, binary in asked:
        output: dict[str, Any] = {"name": column.name, "datatype": column.datatype, "shape": column.shape(len(answers))}
        if binary:
            parts.append(as_bytes(column, answers))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = as_list(column, answers)
        outputs.append(output)
    if not parts:
        return reply(found | {"outputs": outputs})
    header = as_json(found | {"outputs": outputs})
    body = b"".join([header, *parts])
    return Response(body, headers={HEADER: str(len(header))}, media_type="application/octet-stream")
