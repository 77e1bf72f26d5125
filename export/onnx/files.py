"""An ONNX model as the files of a bundle: one, or the graph and beside it the weights that are too large for one.

A protobuf message ends at 2 GiB, so larger weights lie in files of their own ("external data" of the ONNX standard),
each hashed in the manifest and handed to the engine from memory like every other file.
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto

LIMIT = 2_000_000_000
"""Bytes of weights that one file holds; the rest up to 2 GiB is left to the graph itself."""
SHARD = 1 << 30
"""Bytes of a file of weights, unless a single weight is larger."""
SMALL = 1024
"""Weights of fewer bytes stay in the graph: shapes and axes, which an engine wants to see when it plans."""


def files_of(model: onnx.ModelProto, over: int = LIMIT) -> dict[str, bytes]:
    """Contents by name: model.onnx and, where its weights have more than `over` bytes, weights-1.bin and so on."""
    large = [weight for weight in model.graph.initializer if len(weight.raw_data) >= SMALL]
    if sum(len(weight.raw_data) for weight in large) <= over:
        return {"model.onnx": _bytes(model)}
    graph, shards, size = _without_weights(model), list[list[TensorProto]](), 0
    for weight in model.graph.initializer:
        kept, length = graph.graph.initializer.add(), len(weight.raw_data)
        if length < SMALL:
            kept.CopyFrom(weight)
            continue
        if not shards or size + length > SHARD:
            shards.append([])
            size = 0
        kept.name, kept.data_type, kept.data_location = weight.name, weight.data_type, TensorProto.EXTERNAL
        kept.dims.extend(weight.dims)
        where = {"location": _name(len(shards)), "offset": str(size), "length": str(length)}
        kept.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in where.items())
        shards[-1].append(weight)
        size += length
    beside = {_name(number): b"".join(weight.raw_data for weight in shard) for number, shard in enumerate(shards, 1)}
    return {"model.onnx": _bytes(graph), **beside}


def check(model: onnx.ModelProto) -> None:
    """What onnx's checker says of the model, large weights told by their shapes alone: it takes 2 GiB at most."""
    light = _without_weights(model)
    for weight in model.graph.initializer:
        if len(weight.raw_data) < SMALL:
            light.graph.initializer.add().CopyFrom(weight)
        else:
            value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims))
            light.graph.input.append(value)
    onnx.checker.check_model(light)


def _name(number: int) -> str:
    return f"weights-{number}.bin"


def _bytes(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without initializers, which are never copied on the way."""
    result = onnx.ModelProto()
    _copy(model, result, "graph")
    _copy(model.graph, result.graph, "initializer")
    return result


def _copy(source: Any, target: Any, left_out: str) -> None:
    """All fields of a message but one."""
    for field, value in source.ListFields():
        if field.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
