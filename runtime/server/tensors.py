"""What inference means in the Open Inference Protocol, version 2, however a request travels.

Inputs are tensors of BYTES, (N,) or (N, 1): `text`, or for pairs `text` and `text_pair`, or `question` and `context`.
Outputs are those of `columns`. A request's parameter `timeout` is in microseconds, as Triton has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attar.runtime.errors import DataError
from attar.runtime.server.columns import Column, columns, strings
from attar.runtime.server.exchange import parse_inputs
from attar.runtime.server.models import Served, inputs_of
from attar.runtime.server.refusals import RefusedError
from attar.runtime.tokenizer import Text
from attar.runtime.version import __version__

VERSION = "1"
"""The version of every model: a server has one of each."""
SERVER = {"name": "attar", "version": __version__, "extensions": ["binary_tensor_data"]}


@dataclass(frozen=True)
class Inference:
    """What a request asks for: the outputs, whether each is to be binary, and the seconds it may take."""

    texts: list[Text]
    outputs: list[tuple[Column, bool]]
    timeout: float | None


def signature(served: Served) -> dict[str, Any]:
    """The inputs and outputs of a model."""
    task = served.model.task
    inputs = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in inputs_of(task)]
    outputs = [{"name": c.name, "datatype": c.datatype, "shape": c.shape(-1)} for c in columns(task)]
    return {
        "name": served.name, "versions": [VERSION], "platform": "attar", "inputs": inputs, "outputs": outputs,
    }  # fmt: skip


def inference(
    record: Mapping[str, Any], binaries: Sequence[bytes | None], served: Served, binary: bool = False
) -> Inference:
    """A request in the form of the schema `INFER`; an input has either binary data or `data`.

    `binary`: whether outputs are, where the request does not say.
    """
    tensors = _tensors(record["inputs"], binaries, inputs_of(served.model.task))
    items = tensors[0] if len(tensors) == 1 else [list(item) for item in zip(*tensors, strict=True)]
    texts = parse_inputs(items, served, "input")
    parameters = record.get("parameters", {})
    outputs = _asked(record, columns(served.model.task), parameters.get("binary_data_output", binary))
    timeout = parameters.get("timeout")
    return Inference(texts, outputs, timeout / 1e6 if timeout else None)  # 0: Triton's word for none


def _tensors(
    given: Sequence[Mapping[str, Any]], binaries: Sequence[bytes | None], names: tuple[str, ...]
) -> list[list[Any]]:
    """The values of each input in the order of `names`."""
    if sorted(t["name"] for t in given) != sorted(names):
        raise bad(f"inputs must be {' and '.join(names)}, each once")
    found = {tensor["name"]: _values(tensor, binary) for tensor, binary in zip(given, binaries, strict=True)}
    if len({len(values) for values in found.values()}) > 1:
        raise bad("the inputs have different numbers of texts; give as many of each")
    return [found[name] for name in names]


def _values(tensor: Mapping[str, Any], binary: bytes | None) -> list[Any]:
    """The strings of one input, from its data or from binary data."""
    where, shape = f"input {tensor['name']!r}", tensor["shape"]
    if tensor["datatype"] != "BYTES":
        raise bad(f"{where} must have datatype BYTES")
    if len(shape) == 2 and shape[1] != 1:
        raise bad(f"{where} must have shape [N] or [N, 1]")
    if binary is not None:
        try:
            values: list[Any] = strings(binary)
        except DataError as error:
            raise bad(f"the binary data of {where} {error}") from error
    else:
        values = [v for item in tensor["data"] for v in (item if isinstance(item, list) else [item])]
    if len(values) != shape[0]:
        raise bad(f"{where} has {len(values)} values and shape {shape}")
    if not all(isinstance(v, str) for v in values):
        raise bad(f"{where} holds a value that is not a string")
    return values


def _asked(record: Mapping[str, Any], known: Sequence[Column], binary: bool) -> list[tuple[Column, bool]]:
    """The outputs that are asked for, by default all, and whether each is to be binary."""
    if not record.get("outputs"):
        return [(column, binary) for column in known]
    by_name = {column.name: column for column in known}
    found = []
    for output in record["outputs"]:
        if output["name"] not in by_name:
            raise bad(f"there is no output of that name; known: {', '.join(by_name)}")
        found.append((by_name[output["name"]], output.get("parameters", {}).get("binary_data", binary)))
    return found


def bad(message: str) -> RefusedError:
    """The refusal of a request that is not in the form it should be."""
    return RefusedError(422, message, "bad input")
