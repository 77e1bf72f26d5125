"""What tests of gRPC share: messages written out in bytes, and calls to a server on the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from attar.runtime.model import Model
from attar.runtime.server import Settings
from attar.runtime.server.grpc_messages import INFERENCE, messages
from attar.runtime.server.grpc_server import listen
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models
from attar.runtime.waiting import Limits

SERVICE, CHECK = "/inference.GRPCInferenceService/", "/grpc.health.v1.Health/Check"
INFER = SERVICE + "ModelInfer"
M = messages("inference", INFERENCE)
Code = grpc.StatusCode

# Protobuf's wire format by hand: before each field (number << 3 | 2) and a length, or (number << 3 | 0) and a varint.
TEXT_TENSOR = b"\x0a\x04text\x12\x05BYTES\x1a\x01\x01"  # 1 name, 2 datatype, 3 shape: one varint, packed
TIMEOUT = b"\x22\x10\x0a\x07timeout\x12\x05\x10\x80\xad\xe2\x04"  # 4 parameters: 2 int64 10,000,000 µs
TYPED_REQUEST = (
    b"\x0a\x04tiny" b"\x1a\x017"  # 1 model_name, 3 id
    + TIMEOUT
    + b"\x2a\x18" + TEXT_TENSOR + b"\x2a\x06" b"\x42\x04good"  # 5 inputs: 5 contents: 8 bytes_contents
    + b"\x32\x07" b"\x0a\x05label"  # 6 outputs: 1 name
)  # fmt: skip
TYPED_RESPONSE = (
    b"\x0a\x04tiny" b"\x12\x011" b"\x1a\x017"  # 1 model_name, 2 model_version, 3 id
    b"\x2a\x1d" b"\x0a\x05label" b"\x12\x05BYTES" b"\x1a\x01\x01"  # 5 outputs: 1 name, 2 datatype, 3 shape
    b"\x2a\x0a" b"\x42\x08positive"  # ... 5 contents: 8 bytes_contents
)  # fmt: skip
RAW_REQUEST = (
    b"\x0a\x04tiny" b"\x2a\x10" + TEXT_TENSOR
    + b"\x32\x0b" b"\x0a\x09truncated" b"\x32\x07" b"\x0a\x05label"
    + b"\x3a\x08" b"\x04\0\0\0good"  # 7 raw_input_contents
)  # fmt: skip
RAW_RESPONSE = (
    b"\x0a\x04tiny" b"\x12\x011"
    b"\x2a\x14" b"\x0a\x09truncated" b"\x12\x04BOOL" b"\x1a\x01\x01"
    b"\x2a\x11" b"\x0a\x05label" b"\x12\x05BYTES" b"\x1a\x01\x01"
    b"\x32\x01\0" b"\x32\x0c" b"\x08\0\0\0positive"  # 6 raw_output_contents
)  # fmt: skip
YES, NO = b"\x08\x01", b""  # 1 live or ready; a false one is left out


def serve(loaded: Mapping[str, Model], **limits: Any) -> Models:
    found = Models(Meter(), Limits(**limits))
    for name, model in loaded.items():
        found.add(name, model)
    found.state = "ready"
    return found


def converse(models: Models, scenario: Callable[[Any], Awaitable[Any]], **settings: Any) -> Any:
    """What comes of a scenario, which gets a channel to a server around the models."""

    async def both() -> Any:
        service, port = await listen(models, "127.0.0.1", 0, Settings(**settings))
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await scenario(channel)
        finally:
            await service.stop(None)

    return asyncio.run(both())


def call(models: Models, method: str, message: bytes = b"", settings: Any = None, **arguments: Any) -> Any:
    """The reply to one call in bytes, or the error."""
    return converse(models, lambda channel: reply(channel, method, message, **arguments), **settings or {})


async def reply(channel: Any, method: str, message: bytes = b"", **arguments: Any) -> Any:
    try:
        return await channel.unary_unary(method)(message, timeout=arguments.pop("timeout", 20), **arguments)
    except grpc.aio.AioRpcError as error:
        return error


def request(model: str, inputs: Mapping[str, list[str]], raw: bool = False, **parameters: Any) -> Any:
    """A ModelInfer request; parameters are bools or numbers."""
    found = M["ModelInferRequest"](model_name=model)
    for name, texts in inputs.items():
        tensor = found.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
        if raw:
            found.raw_input_contents.append(b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts))
        else:
            tensor.contents.bytes_contents.extend(t.encode() for t in texts)
    for name, value in parameters.items():
        setattr(found.parameters[name], "bool_param" if isinstance(value, bool) else "int64_param", value)
    return found


def wire(number: int, content: str | bytes) -> bytes:
    """A string or a message, of less than 128 bytes, as a field."""
    encoded = content.encode() if isinstance(content, str) else content
    return bytes([number << 3 | 2, len(encoded)]) + encoded
