"""The Open Inference Protocol, version 2, over HTTP, with Triton's binary tensor data: what tritonclient speaks.

Inputs are tensors of BYTES, (N,) or (N, 1): `text`, or for pairs `text` and `text_pair`, or `question` and `context`.
Outputs are those of `columns`. A request's parameter `timeout` is in microseconds, as Triton has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from attar.runtime.errors import DataError
from attar.runtime.server.columns import Column, as_bytes, as_list, columns, strings
from attar.runtime.server.exchange import MANY, answer, as_json, parse_inputs, parse_json, read_body, reply
from attar.runtime.server.models import Models, inputs_of
from attar.runtime.server.refusals import RefusedError
from attar.runtime.server.schemas import INFER
from attar.runtime.version import __version__

HEADER = "inference-header-content-length"


async def server(models: Models, request: Request) -> Response:
    """GET /v2."""
    return reply({"name": "attar", "version": __version__, "extensions": ["binary_tensor_data"]})


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
    served = models.get(request.path_params["name"])
    task = served.model.task
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in inputs_of(task)]
    outputs = [{"name": c.name, "datatype": c.datatype, "shape": c.shape(-1)} for c in columns(task)]
    return reply({"name": served.name, "versions": ["1"], "platform": "attar", "inputs": inputs, "outputs": outputs})


async def infer(models: Models, request: Request) -> Response:
    """POST /v2/models/NAME/infer."""
    served = models.get(request.path_params["name"])
    header, binary = _split(await read_body(request), request.headers.get(HEADER))
    record = parse_json(header, INFER)
    tensors = _tensors(record["inputs"], binary, inputs_of(served.model.task))
    items = tensors[0] if len(tensors) == 1 else [list(item) for item in zip(*tensors, strict=True)]
    texts = parse_inputs(items, served, "input")
    asked = _asked(record, columns(served.model.task))
    timeout = record.get("parameters", {}).get("timeout")
    answered = await answer(served, texts, request, timeout / 1e6 if timeout else None)  # 0: Triton's word for none
    found = {"model_name": served.name, "model_version": "1"} | ({"id": record["id"]} if "id" in record else {})
    if len(texts) >= MANY:
        return await asyncio.to_thread(_written, found, asked, answered.answers)
    return _written(found, asked, answered.answers)


def _split(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body, and the binary tensors behind it."""
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body)):
        raise RefusedError(400, "Inference-Header-Content-Length is not a length within the body", "bad json")
    return body[: int(length)], body[int(length) :]


def _tensors(given: Sequence[Mapping[str, Any]], binary: bytes, names: tuple[str, ...]) -> list[list[Any]]:
    """The values of each input in the order of `names`."""
    if sorted(t["name"] for t in given) != sorted(names):
        raise _bad(f"inputs must be {' and '.join(names)}, each once")
    found: dict[str, list[Any]] = {}
    for tensor in given:
        size = tensor.get("parameters", {}).get("binary_data_size")
        found[tensor["name"]] = _values(tensor, None if size is None else binary[:size])
        if size is not None and size > len(binary):
            raise _bad(f"input {tensor['name']!r} has less binary data than its binary_data_size")
        binary = binary[size or 0 :]
    if binary:
        raise _bad("there is binary data that belongs to no input: give each its binary_data_size")
    if len({len(values) for values in found.values()}) > 1:
        raise _bad("the inputs have different numbers of texts; give as many of each")
    return [found[name] for name in names]


def _values(tensor: Mapping[str, Any], binary: bytes | None) -> list[Any]:
    """The strings of one input, from JSON or from binary data."""
    where, shape = f"input {tensor['name']!r}", tensor["shape"]
    if tensor["datatype"] != "BYTES":
        raise _bad(f"{where} must have datatype BYTES")
    if (binary is None) != ("data" in tensor):
        raise _bad(f"{where} needs either data or, for binary data behind the JSON, the parameter binary_data_size")
    if len(shape) == 2 and shape[1] != 1:
        raise _bad(f"{where} must have shape [N] or [N, 1]")
    if binary is not None:
        try:
            values: list[Any] = strings(binary)
        except DataError as error:
            raise _bad(f"the binary data of {where} {error}") from error
    else:
        values = [v for item in tensor["data"] for v in (item if isinstance(item, list) else [item])]
    if len(values) != shape[0]:
        raise _bad(f"{where} has {len(values)} values and shape {shape}")
    if not all(isinstance(v, str) for v in values):
        raise _bad(f"{where} holds a value that is not a string")
    return values


def _asked(record: Mapping[str, Any], known: Sequence[Column]) -> list[tuple[Column, bool]]:
    """The outputs that are asked for, by default all, and whether each is to be binary."""
    binary = record.get("parameters", {}).get("binary_data_output", False)
    if not record.get("outputs"):
        return [(column, binary) for column in known]
    by_name = {column.name: column for column in known}
    found = []
    for output in record["outputs"]:
        if output["name"] not in by_name:
            raise _bad(f"there is no output of that name; known: {', '.join(by_name)}")
        found.append((by_name[output["name"]], output.get("parameters", {}).get("binary_data", binary)))
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


def _bad(message: str) -> RefusedError:
    return RefusedError(422, message, "bad input")
