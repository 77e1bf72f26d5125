"""What requests and replies look like, as JSON Schema: one set of definitions for validation and /openapi.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "object": ((dict,), "an object"),
    "array": ((list,), "a list"),
    "string": ((str,), "a string"),
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "boolean": ((bool,), "true or false"),
}


def problem(value: Any, schema: Schema, where: str = "the body") -> str | None:
    """What is wrong with a value, without quoting it; None: nothing.

    Knows the keywords that the schemas of this file use: type, enum, anyOf, minimum, maximum, properties, required,
    additionalProperties (false), items, minItems, maxItems. `anyOf` comes with a `description`, which the message is.
    """
    if "anyOf" in schema:
        fits = any(problem(value, choice, where) is None for choice in schema["anyOf"])
        return None if fits else f"{where} must be {schema['description']}"
    if "type" in schema:
        types, words = _TYPES[schema["type"]]
        if not isinstance(value, types) or (isinstance(value, bool) and schema["type"] != "boolean"):
            return f"{where} must be {words}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} must be one of {', '.join(map(str, schema['enum']))}"
    if "minimum" in schema and not value >= schema["minimum"]:
        return f"{where} must be at least {schema['minimum']}"
    if "maximum" in schema and not value <= schema["maximum"]:
        return f"{where} must be at most {schema['maximum']}"
    if isinstance(value, dict):
        return _object_problem(value, schema, where)
    return _array_problem(value, schema, where) if isinstance(value, list) else None


def _object_problem(value: dict[str, Any], schema: Schema, where: str) -> str | None:
    known = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            return f"{where} lacks {key!r}"
    for key, item in value.items():
        if key in known:
            found = problem(item, known[key], key if where == "the body" else f"{where}.{key}")
            if found is not None:
                return found
        elif schema.get("additionalProperties") is False:
            return f"{where} has a key that is not known; known: {', '.join(known)}"
    return None


def _array_problem(value: list[Any], schema: Schema, where: str) -> str | None:
    least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
    if not least <= len(value) <= most:
        return f"{where} has {len(value)} items; " + (f"at least {least}" if len(value) < least else f"at most {most}")
    items = schema.get("items")
    if not items:
        return None
    return next((p for i, v in enumerate(value) if (p := problem(v, items, f"{where}[{i}]")) is not None), None)


def _object(properties: Mapping[str, Schema], *required: str, example: Any = None) -> Schema:
    found: dict[str, Any] = {"type": "object", "properties": properties, "required": list(required)}
    return found | {"additionalProperties": False} | ({} if example is None else {"examples": [example]})


def _list(items: Schema, **keywords: Any) -> Schema:
    return {"type": "array", "items": items, **keywords}


STRING, WHOLE, YES = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
ANY: Schema = {}
INPUT: Schema = {
    "description": "What the model reads (GET /models tells): a string; for pairs and questions a list of two strings, "
    "or an object with both by name, such as question and context."
}
ERROR = _object({"error": STRING}, "error", example={"error": "texts[0] is a int, not a string"})

PREDICT: Schema = {
    "anyOf": [
        _object({"texts": INPUT}, "texts", example={"texts": ["a gripping, funny film", "dull"]}),
        _object({"text": INPUT}, "text", example={"text": "a gripping, funny film"}),
    ],
    "description": 'an object with one key: {"texts": "..."}, {"texts": ["...", ...]} or {"text": "..."}',
    "examples": [{"texts": ["a gripping, funny film", "dull"]}, {"text": "a gripping, funny film"}],
}
ANSWERS = _object(
    {"answers": _list({"description": "The answer to one input, in the order of the inputs; its form is the task's."})},
    "answers",
    example={"answers": [{"label": "positive", "score": 0.98, "scores": {"positive": 0.98}, "truncated": False}]},
)
_ABOUT_EXAMPLE = {
    "name": "sentiment", "task": "text-classification", "inputs": ["text"], "labels": ["negative", "positive"],
    "limits": {"max_length": 128, "max_batch": 256, "max_body": 2097152}, "engine": "onnxruntime 1.32.0",
}  # fmt: skip
ABOUT = _object(
    {
        "name": STRING, "task": STRING, "inputs": _list(STRING), "labels": _list(STRING), "limits": {"type": "object"},
        "engine": STRING,
    },
    "name", "task", "inputs", "labels", "limits", "engine", example=_ABOUT_EXAMPLE,
)  # fmt: skip
MODELS = _object({"models": _list(ABOUT)}, "models", example={"models": [_ABOUT_EXAMPLE]})
ABOUT_OR_MODELS: Schema = {"anyOf": [ABOUT, MODELS], "description": "the only model, or all of them"}
STATUS = _object({"status": STRING}, "status", example={"status": "ready"})

# The Open Inference Protocol, version 2 (open-inference-protocol, specification/protocol/inference_rest.md), and the
# binary tensor data extension of Triton (server, docs/protocol/extension_binary_data.md).
DATATYPES = ("BOOL", "INT64", "FP32", "FP64", "BYTES")
TENSOR_INPUT = _object(
    {
        "name": STRING,
        "shape": _list({"type": "integer", "minimum": 0}, minItems=1, maxItems=2),
        "datatype": STRING,
        "parameters": _object({"binary_data_size": {"type": "integer", "minimum": 0}}),
        "data": _list(ANY),
    },
    "name", "shape", "datatype",
)  # fmt: skip
INFER = _object(
    {
        "id": STRING,
        "parameters": _object(
            {
                "timeout": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "description": "microseconds"},
                "binary_data_output": YES,
            }
        ),
        "inputs": _list(TENSOR_INPUT, minItems=1),
        "outputs": _list(_object({"name": STRING, "parameters": _object({"binary_data": YES})}, "name")),
    },
    "inputs",
    example={"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a funny film", "dull"]}]},
)
_TENSOR_OUTPUT = _object(
    {
        "name": STRING, "shape": _list(WHOLE), "datatype": {"type": "string", "enum": DATATYPES},
        "parameters": {"type": "object"}, "data": _list(ANY),
    },
    "name", "shape", "datatype",
)  # fmt: skip
INFERRED = _object(
    {"model_name": STRING, "model_version": STRING, "id": STRING, "outputs": _list(_TENSOR_OUTPUT)},
    "model_name", "outputs",
    example={
        "model_name": "sentiment", "model_version": "1",
        "outputs": [{"name": "label", "shape": [2], "datatype": "BYTES", "data": ["positive", "negative"]}],
    },
)  # fmt: skip
_SIGNATURE = _list(_object({"name": STRING, "datatype": STRING, "shape": _list(WHOLE)}, "name", "datatype", "shape"))
METADATA = _object(
    {"name": STRING, "versions": _list(STRING), "platform": STRING, "inputs": _SIGNATURE, "outputs": _SIGNATURE},
    "name", "platform", "inputs", "outputs",
    example={
        "name": "sentiment", "versions": ["1"], "platform": "attar",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "label", "datatype": "BYTES", "shape": [-1]}],
    },
)  # fmt: skip
SERVER = _object(
    {"name": STRING, "version": STRING, "extensions": _list(STRING)}, "name", "version", "extensions",
    example={"name": "attar", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
)  # fmt: skip
LIVE = _object({"live": YES}, "live", example={"live": True})
READY = _object({"ready": YES}, "ready", example={"ready": True})
MODEL_READY = _object({"name": STRING, "ready": YES}, "name", "ready", example={"name": "sentiment", "ready": True})

# OpenAI's embeddings, without lists of token ids.
EMBED = _object(
    {
        "model": STRING,
        "input": {"anyOf": [STRING, _list(STRING)], "description": "a string or a list of strings"},
        "encoding_format": {"type": "string", "enum": ["float", "base64"]},
        "dimensions": {"type": "integer", "minimum": 1},
    },
    "model", "input",
    example={"model": "embeddings", "input": ["how do I pay?"], "encoding_format": "float"},
)  # fmt: skip
_USAGE = _object({"prompt_tokens": WHOLE, "total_tokens": WHOLE}, "prompt_tokens", "total_tokens")
_NUMBERS: Schema = {"anyOf": [_list({"type": "number"}), STRING], "description": "numbers, or base64 of float32"}
_EMBEDDING = _object({"object": STRING, "index": WHOLE, "embedding": _NUMBERS}, "object", "index", "embedding")
EMBEDDED = _object(
    {"object": STRING, "model": STRING, "data": _list(_EMBEDDING), "usage": _USAGE}, "object", "model", "data", "usage",
    example={
        "object": "list", "model": "embeddings", "usage": {"prompt_tokens": 7, "total_tokens": 7},
        "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}],
    },
)  # fmt: skip
_FAILURE = _object({"message": STRING, "type": STRING, "code": WHOLE}, "message", "type", "code")
OPENAI_ERROR = _object(
    {"error": _FAILURE}, "error", example={"error": {"message": "input must be ...", "type": "attar", "code": 422}}
)
