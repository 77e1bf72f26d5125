"""The Open Inference Protocol over HTTP, as tritonclient speaks it: tensors in JSON and in binary, and its errors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from attar.runtime.model import Model
from attar.runtime.tasks.base import jsonable
from tests.fixtures_bundle import MAX_BATCH
from tests.runtime.serving import KINDS, ask, example


def tensor(name: str, *texts: str) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}


def binary_tensor(name: str, *texts: str) -> tuple[dict[str, Any], bytes]:
    """As tritonclient writes it: each string behind its length in four little-endian bytes, after the JSON."""
    data = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    shown = {"name": name, "shape": [len(texts), 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    return shown, data


def infer(app: Any, kind: str, record: Mapping[str, Any], binary: bytes = b"") -> httpx.Response:
    header = json.dumps(record).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))} if binary else {}
    return ask(app, "POST", f"/v2/models/{kind}/infer", content=header + binary, headers=headers)


@pytest.mark.parametrize("kind", ["tiny", *KINDS])
def test_inference_gives_the_outputs_that_the_metadata_tells(app: Any, models: Mapping[str, Model], kind: str) -> None:
    item = example(models, kind)
    metadata = ask(app, "GET", f"/v2/models/{kind}").json()
    parts = item if isinstance(item, tuple) else (item,)
    inputs = [tensor(i["name"], part, part) for i, part in zip(metadata["inputs"], parts, strict=True)]
    reply = infer(app, kind, {"id": "7", "inputs": inputs}).json()
    assert (reply["id"], reply["model_name"]) == ("7", kind)
    told = {o["name"]: (o["datatype"], [2, *o["shape"][1:]]) for o in metadata["outputs"]}
    assert {o["name"]: (o["datatype"], o["shape"]) for o in reply["outputs"]} == told
    found = {o["name"]: o["data"] for o in reply["outputs"]}
    assert all(len(found[name]) == np.prod(shape) for name, (_, shape) in told.items())
    wanted = json.loads(json.dumps(jsonable(models[kind](item))))
    assert [json.loads(a) for a in found["answer"]] == [wanted] * 2
    fields = {"pairs": "label", "regression": "value", "question-answering": "text", "tiny": "score"}
    if kind in fields:
        assert found[fields[kind]] == [wanted[fields[kind]]] * 2
    if kind == "embeddings":
        assert found["embedding"] == wanted["values"] * 2
    if kind == "multi-task":
        assert found["sentiment_label"] == [wanted["sentiment"]["label"]] * 2


def test_binary_tensors_as_tritonclient_sends_and_reads_them(app: Any, models: Mapping[str, Model]) -> None:
    shown, data = binary_tensor("text", "a good film", "東京 bad")
    record = {"inputs": [shown], "parameters": {"binary_data_output": True}}
    reply = infer(app, "tiny", record, data)
    length = int(reply.headers["Inference-Header-Content-Length"])
    header, rest = json.loads(reply.content[:length]), reply.content[length:]
    found = {}
    for output in header["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]], rest = rest[:size], rest[size:]
    assert rest == b""
    assert found["label"] == b"\x08\0\0\0positive\x08\0\0\0negative"
    expected = models["tiny"](["a good film", "東京 bad"])
    scores = np.array([list(a.scores.values()) for a in expected], dtype="<f4")
    assert found["scores"] == scores.tobytes()
    assert found["truncated"] == b"\0\0"
    chosen = infer(app, "tiny", {"inputs": [shown], "outputs": [{"name": "label"}]}, data).json()
    assert chosen["outputs"] == [{"name": "label", "datatype": "BYTES", "shape": [2], "data": ["positive", "negative"]}]


def _changed(**fields: Any) -> dict[str, Any]:
    return {"inputs": [tensor("text", "film") | fields]}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (_changed(datatype="FP32", data=[float("inf")]), "not valid JSON"),
        (_changed(datatype="FP32", data=[1.5]), "input 'text' must have datatype BYTES"),
        (_changed(name="prompt"), "inputs must be text, each once"),
        (_changed(shape=[2]), "has 1 values and shape [2]"),
        (_changed(shape=[-1]), "at least 0"),
        (_changed(shape=[1, 2]), "must have shape [N] or [N, 1]"),
        (_changed(shape=[True]), "must be a whole number"),
        (_changed(data=[3]), "not a string"),
        (_changed(data=[["a", 3]], shape=[2]), "not a string"),
        (_changed(data="film"), "must be a list"),
        (_changed(parameters={"binary_data_size": 4}), "needs either data or"),
        ({"inputs": []}, "at least 1"),
        ({}, "lacks 'inputs'"),
        ({"inputs": [tensor("text", "a"), tensor("text", "a")]}, "each once"),
        ({"inputs": [tensor("text", *["a"] * (MAX_BATCH + 1))]}, "at most"),
        ({**_changed(), "outputs": [{"name": "logits"}]}, "known: label, score, scores, truncated, answer"),
        ({**_changed(), "parameters": {"sequence_id": 3}}, "a key that is not known; known: timeout"),
        ({**_changed(), "parameters": {"timeout": "1"}}, "must be a whole number"),
    ],
)
def test_wrong_tensors_are_refused(app: Any, record: Mapping[str, Any], words: str) -> None:
    reply = infer(app, "tiny", record)
    assert reply.status_code in (400, 422)
    assert words in reply.json()["error"]


@pytest.mark.parametrize(
    ("data", "size", "words"),
    [
        (b"\x04\0\0\0fi", 6, "ends within a string"),
        (b"\xff\xff\xff\xff", 4, "ends within a string"),
        (b"\x01\0", 2, "ends within a string"),
        (b"\x01\0\0\0\xff", 5, "not UTF-8"),
        (b"\x01\0\0\0a", 9, "less binary data"),
        (b"\x01\0\0\0ab", 5, "belongs to no input"),
    ],
)
def test_wrong_binary_data_is_refused(app: Any, data: bytes, size: int, words: str) -> None:
    shown = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    reply = infer(app, "tiny", {"inputs": [shown]}, data)
    assert reply.status_code == 422 and words in reply.json()["error"]


def test_a_wrong_length_of_the_header_is_refused(app: Any) -> None:
    for length in ("x", "-1", "999", "²"):
        headers = {"Inference-Header-Content-Length": length.encode()}
        assert ask(app, "POST", "/v2/models/tiny/infer", content=b"{}", headers=headers).status_code == 400


def test_timeouts_of_inference_are_microseconds(app: Any) -> None:
    assert infer(app, "tiny", {**_changed(), "parameters": {"timeout": 1}}).status_code == 504
    assert infer(app, "tiny", {**_changed(), "parameters": {"timeout": 10_000_000}}).status_code == 200
    assert infer(app, "tiny", {**_changed(), "parameters": {"timeout": 0}}).status_code == 200  # Triton: none


def test_health_by_the_open_inference_protocol(app: Any) -> None:
    assert ask(app, "GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert ask(app, "GET", path).status_code == 200
    assert ask(app, "GET", "/v2/models/x/ready").status_code == 404
