"""The Open Inference Protocol, version 2, over gRPC, and gRPC's health check: what tritonclient and KServe speak.

A request means what it means over HTTP (`tensors`), and every failure has a status of gRPC. Outputs are raw, as
little-endian binary data, where the inputs were, unless the parameter `binary_data_output` says otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from attar.runtime.server import guard
from attar.runtime.server.columns import Column, as_bytes, as_list
from attar.runtime.server.exchange import MANY
from attar.runtime.server.grpc_messages import HEALTH, INFERENCE, NOT_SERVING, SERVING, messages
from attar.runtime.server.models import Models, Served
from attar.runtime.server.refusals import RefusedError
from attar.runtime.server.schemas import INFER, problem
from attar.runtime.server.tensors import SERVER, VERSION, bad, inference, signature
from attar.runtime.tokenizer import well_formed

SERVICE, HEALTH_SERVICE = "inference.GRPCInferenceService", "grpc.health.v1.Health"
STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
"""gRPC's word for each status that a request can come to."""
CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}  # fmt: skip

_M, _H = messages("inference", INFERENCE), messages("grpc.health.v1", HEALTH)


async def server_live(models: Models, message: Any, seconds: float | None) -> Any:
    return _M["ServerLiveResponse"](live=True)


async def server_ready(models: Models, message: Any, seconds: float | None) -> Any:
    return _M["ServerReadyResponse"](ready=models.state == "ready")


async def server_metadata(models: Models, message: Any, seconds: float | None) -> Any:
    return _M["ServerMetadataResponse"](**SERVER)


async def model_ready(models: Models, message: Any, seconds: float | None) -> Any:
    _found(models, message.name, message.version)
    return _M["ModelReadyResponse"](ready=True)


async def model_metadata(models: Models, message: Any, seconds: float | None) -> Any:
    return _M["ModelMetadataResponse"](**signature(_found(models, message.name, message.version)))


async def infer(models: Models, message: Any, seconds: float | None) -> Any:
    """Answers tensors of texts within `seconds`, or the request's own timeout where that is shorter."""
    served = _found(models, message.model_name, message.model_version)
    raw = bool(message.raw_input_contents)
    asked = inference(_record(message), list(message.raw_input_contents) if raw else [None] * len(message.inputs),
                      served, raw)  # fmt: skip
    if len({binary for _, binary in asked.outputs}) > 1:
        raise bad("over gRPC the outputs are all binary, or none is")
    timeout = min((t for t in (seconds, asked.timeout) if t is not None), default=None)
    answered = await served.batcher.answered(asked.texts, timeout)
    response = _M["ModelInferResponse"](model_name=served.name, model_version=VERSION, id=message.id)
    if len(asked.texts) >= MANY:
        return await asyncio.to_thread(_written, response, asked.outputs, answered.answers)
    return _written(response, asked.outputs, answered.answers)


async def stream_infer(models: Models, message: Any, seconds: float | None) -> Any:
    """One message of a stream; `seconds` are those of the whole stream."""
    return _M["ModelStreamInferResponse"](infer_response=await infer(models, message, seconds))


async def check_health(models: Models, message: Any, seconds: float | None) -> Any:
    """Whether requests are taken, of all services or of one by its name."""
    if message.service not in ("", SERVICE, HEALTH_SERVICE):
        raise RefusedError(404, f"there is no service of that name; known: {SERVICE}", "unknown service")
    return _H["HealthCheckResponse"](status=SERVING if models.state == "ready" else NOT_SERVING)


@dataclass(frozen=True)
class Method:
    """A call of gRPC: `open` ones need no API key and are answered while models load and while the server drains."""

    service: str
    name: str
    request: Any
    handler: Callable[[Models, Any, float | None], Awaitable[Any]]
    open: bool = False
    work: bool = False
    stream: bool = False


METHODS = (
    Method(SERVICE, "ServerLive", _M["ServerLiveRequest"], server_live, open=True),
    Method(SERVICE, "ServerReady", _M["ServerReadyRequest"], server_ready, open=True),
    Method(SERVICE, "ServerMetadata", _M["ServerMetadataRequest"], server_metadata, open=True),
    Method(SERVICE, "ModelReady", _M["ModelReadyRequest"], model_ready),
    Method(SERVICE, "ModelMetadata", _M["ModelMetadataRequest"], model_metadata),
    Method(SERVICE, "ModelInfer", _M["ModelInferRequest"], infer, work=True),
    Method(SERVICE, "ModelStreamInfer", _M["ModelInferRequest"], stream_infer, work=True, stream=True),
    Method(HEALTH_SERVICE, "Check", _H["HealthCheckRequest"], check_health, open=True),
)


def handlers(models: Models, key: str | None) -> list[Any]:
    """The handlers of every call for a server of gRPC; `key`: what clients must bring, if any."""
    found: dict[str, dict[str, Any]] = {SERVICE: {}, HEALTH_SERVICE: {}}
    for method in METHODS:
        found[method.service][method.name] = (
            grpc.stream_stream_rpc_method_handler(_stream(method, models, key))
            if method.stream
            else grpc.unary_unary_rpc_method_handler(_call(method, models, key))
        )
    return [grpc.method_handlers_generic_handler(service, methods) for service, methods in found.items()]


def _call(method: Method, models: Models, key: str | None) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """One message in, one out, or a status."""

    async def endpoint(data: bytes, context: Any) -> bytes:
        found = await _answered(method, models, key, data, context)
        return found if isinstance(found, bytes) else await _abort(context, found)

    return endpoint


def _stream(
    method: Method, models: Models, key: str | None
) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    """Many messages in, as many out, one after another. What concerns all of them ends the stream."""

    async def endpoint(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for data in requests:
            found = await _answered(method, models, key, data, context)
            if isinstance(found, bytes):
                yield found
            elif found.status in (401, 503):
                await _abort(context, found)
            else:
                yield _M["ModelStreamInferResponse"](error_message=str(found)).SerializeToString()

    return endpoint


async def _answered(method: Method, models: Models, key: str | None, data: bytes, context: Any) -> bytes | RefusedError:
    """The reply to a message: whatever happens, the client gets one or an error, and no text gets into a log."""
    route = f"/{method.service}/{method.name}"
    start = time.perf_counter()
    status = grpc.StatusCode.CANCELLED  # of clients that leave, or whose deadline passes
    models.active += method.work
    try:
        if not method.open:
            guard.check_key(key, _authorization(context))
            guard.check_state(models)
            models.admitted += method.work
        reply = await method.handler(models, _parsed(method.request, data), context.time_remaining())
        found: bytes = reply.SerializeToString()
        status = grpc.StatusCode.OK
        return found
    except Exception as error:
        refused = guard.refused(models, route, error)
        status = STATUSES[refused.status]
        return refused
    finally:
        models.active -= method.work
        guard.finished(models, route, status.name, start)


async def _abort(context: Any, refused: RefusedError) -> Any:
    """Ends the call with a status, and the coroutine with an error of gRPC's."""
    return await context.abort(STATUSES[refused.status], str(refused), tuple(refused.headers.items()))


def _authorization(context: Any) -> str:
    return next((v for k, v in context.invocation_metadata() or () if k == "authorization"), "")


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise bad("the message cannot be read: strings must be UTF-8, and fields as the protocol says") from error


def _found(models: Models, name: str, version: str) -> Served:
    served = models.get(name)
    if version not in ("", VERSION):
        raise RefusedError(404, f"the only version of this model is {VERSION}", "unknown model")
    return served


def _record(message: Any) -> dict[str, Any]:
    """A request as JSON would have it, checked by the same schema."""
    raw = message.raw_input_contents
    if raw and (len(raw) != len(message.inputs) or any(t.HasField("contents") for t in message.inputs)):
        raise bad("each input needs raw_input_contents of its own, or none has any and each has contents")
    inputs = [_tensor(t, raw[i] if raw else None) for i, t in enumerate(message.inputs)]
    outputs = [{"name": o.name, "parameters": _parameters(o.parameters)} for o in message.outputs]
    record = {"id": message.id, "parameters": _parameters(message.parameters), "inputs": inputs, "outputs": outputs}
    found = problem(record, INFER)
    if found is not None:
        raise bad(found)
    return record


def _tensor(tensor: Any, raw: bytes | None) -> dict[str, Any]:
    parameters = _parameters(tensor.parameters)
    found = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), "parameters": parameters}
    if "binary_data_size" in parameters and (raw is None or parameters["binary_data_size"] != len(raw)):
        raise bad("an input's binary_data_size is not that of its raw_input_contents")
    if raw is None:
        try:
            return found | {"data": [v.decode() for v in tensor.contents.bytes_contents]}
        except UnicodeDecodeError as error:
            raise bad("an input's bytes_contents are not UTF-8") from error
    return found


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of parameters; None where one has none."""
    chosen = {name: value.WhichOneof("choice") for name, value in given.items()}
    return {name: field and getattr(given[name], field) for name, field in chosen.items()}


def _written(response: Any, asked: Sequence[tuple[Column, bool]], answers: Sequence[Any]) -> Any:
    for column, binary in asked:
        output = response.outputs.add(name=column.name, datatype=column.datatype, shape=column.shape(len(answers)))
        if binary:
            response.raw_output_contents.append(as_bytes(column, answers))
        else:
            values = as_list(column, answers)
            encoded = [well_formed(v).encode() for v in values] if column.datatype == "BYTES" else values
            getattr(output.contents, CONTENTS[column.datatype]).extend(encoded)
    return response
