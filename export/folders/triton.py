"""A model repository of Triton: the tokenizer, the ONNX graph and the answers as three models, and an ensemble of them.

config.pbtxt is protobuf's text format of Triton's model_config.proto. The graph alone gathers requests into batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.export.folders.graph import typed
from attar.export.folders.source import Made, Source
from attar.runtime.tasks.base import INPUTS, Task

KINDS = ("text-classification", "regression", "embeddings")
"""One row a text: an ensemble has no notion of windows, in which the other kinds read long texts."""
MULTIPLE = 16
"""Rows are padded to multiples of so many tokens, so that requests of similar length meet in one batch."""
DELAY_US = 500
"""How long a request may wait for others."""
Config = Mapping[str, Any]


class Word(str):
    """A value that the text format writes without quotes."""


def write(source: Source, folder: Path) -> Made:
    """Fill the folder; its models are called after the bundle."""
    source.require("triton", KINDS)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", source.manifest.name)
    model = source.model()
    given = INPUTS[: 3 if typed(model) else 2]
    scripts = {part: Path(__file__).with_name(f"triton_{part}.py").read_bytes() for part in ("tokenize", "answer")}
    files = {
        f"{name}/1/.keep": b"",  # an ensemble has a version too, and its folder would be lost where empty ones are
        f"{name}_tokenize/1/model.py": scripts["tokenize"],
        f"{name}_tokenize/1/tokenizer.json": source.tokenizer,
        f"{name}_onnx/1/model.onnx": model,
        f"{name}_answer/1/model.py": scripts["answer"],
    }
    parts = {
        name: _ensemble(name, source.task, given),
        f"{name}_tokenize": _tokenize(source, given),
        f"{name}_onnx": _graph(source.task, given),
        f"{name}_answer": _answer(source.task),
    }
    for part, config in parts.items():
        whole = {"name": part, "max_batch_size": source.manifest.limits["max_batch"], **config}
        files[f"{part}/config.pbtxt"] = pbtxt(whole).encode()
    for place, data in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(data)
    return Made(_how(name, source.task), f"{name}_onnx/1/model.onnx")


def _tokenize(source: Source, given: Sequence[str]) -> Config:
    task = source.task
    settings = {
        "max_length": task.max_length, "pad_id": source.manifest.pad_id, "multiple": MULTIPLE,
        "typed": len(given) > 2, "prompt": getattr(task, "prompt", ""),
    }  # fmt: skip
    return {
        "backend": "python",
        "input": [_text(task)],
        "output": [_tensor(name, "INT64", -1) for name in given],
        **_on_cpu(settings),
        "model_warmup": [_warmup("an empty text", 1, [_text(task)])],
    }


def _graph(task: Task, given: Sequence[str]) -> Config:
    sizes = [(1, min(MULTIPLE, task.max_length)), (1, task.max_length), (8, task.max_length)]
    warm = [_warmup(f"{rows} x {long}", rows, [_tensor(n, "INT64", long) for n in given]) for rows, long in sizes]
    return {
        "platform": "onnxruntime_onnx",
        "input": [_tensor(name, "INT64", -1) for name in given],
        "output": [_tensor(task.heads[0].name, "FP32", task.heads[0].outputs)],
        "dynamic_batching": {"max_queue_delay_microseconds": DELAY_US},
        "instance_group": _CPU,
        "model_warmup": warm,
    }


def _answer(task: Task) -> Config:
    raw = _tensor("RAW", "FP32", task.heads[0].outputs)
    return {"backend": "python", "input": [raw], "output": _answers(task), **_on_cpu(task.to_json())}


def _ensemble(name: str, task: Task, given: Sequence[str]) -> Config:
    """Tensors of the three models by the names that they have between them."""
    raw, answers = task.heads[0].name, {a["name"]: a["name"] for a in _answers(task)}
    same = {n: n for n in given}
    steps = [
        (f"{name}_tokenize", {"TEXT": "TEXT"}, same),
        (f"{name}_onnx", same, {raw: "RAW"}),
        (f"{name}_answer", {"RAW": "RAW"}, answers),
    ]
    step = [
        {"model_name": m, "model_version": -1, "input_map": _map(reads), "output_map": _map(gives)}
        for m, reads, gives in steps
    ]
    return {
        "platform": "ensemble",
        "input": [_text(task)],
        "output": _answers(task),
        "ensemble_scheduling": {"step": step},
    }


def _text(task: Task) -> Config:
    return _tensor("TEXT", "STRING", 2 if task.pairs else 1)


def _answers(task: Task) -> list[Config]:
    """What triton_answer.py gives."""
    outputs = task.heads[0].outputs
    if task.kind == "text-classification":
        return [_tensor("LABEL", "STRING", 1), _tensor("SCORE", "FP32", 1), _tensor("SCORES", "FP32", outputs)]
    if task.kind == "regression":
        return [_tensor("VALUE", "FP32", 1)]
    return [_tensor("VECTOR", "FP32", getattr(task, "truncate", 0) or outputs)]


def _tensor(name: str, kind: str, size: int) -> Config:
    return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": [size]}


_CPU: list[Config] = [{"kind": Word("KIND_CPU"), "count": 1}]


def _on_cpu(settings: Config) -> Config:
    """A Python model on the CPU, with settings that it reads as JSON."""
    value = {"string_value": json.dumps(settings, ensure_ascii=False)}
    return {"instance_group": _CPU, "parameters": [{"key": "attar", "value": value}]}


def _warmup(name: str, rows: int, tensors: Sequence[Config]) -> Config:
    """A request of zeros, of strings empty ones."""
    inputs = [
        {"key": t["name"], "value": {"data_type": t["data_type"], "dims": t["dims"], "zero_data": True}}
        for t in tensors
    ]
    return {"name": name, "batch_size": rows, "inputs": inputs}


def _map(names: Mapping[str, str]) -> list[Config]:
    return [{"key": key, "value": value} for key, value in names.items()]


def pbtxt(message: Config, indent: str = "") -> str:
    """A message in protobuf's text format; a list is a repeated field."""
    lines = []
    for key, value in message.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                lines.append(f"{indent}{key} {{\n{pbtxt(each, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{key}: {each if isinstance(each, Word) else _scalar(each)}\n")
    return "".join(lines)


def _scalar(value: str | int | bool) -> str:
    """JSON writes strings, numbers and truth values as the text format reads them."""
    return json.dumps(value, ensure_ascii=False)


def _how(name: str, task: Task) -> str:
    answers = ", ".join(a["name"] for a in _answers(task))
    text = "two, a text and its second" if task.pairs else "a text"
    return f"""    tritonserver --model-repository path/to/this/folder

The model `{name}` takes `TEXT` ({text}, as BYTES) and gives {answers}. It is an ensemble: `{name}_tokenize` and
`{name}_answer` run in Triton's Python backend and need `pip install tokenizers` there; `{name}_onnx` needs an ONNX
Runtime of 1.23 or newer. Rows are padded to multiples of {MULTIPLE} tokens, so that Triton can batch requests of
similar length; padding does not change an answer."""
