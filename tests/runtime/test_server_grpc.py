"""The Open Inference Protocol over gRPC: messages byte by byte, the same answers as HTTP, and what is refused."""

import random
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import pytest

from attar.export.bundle import write
from attar.runtime.model import Model, load
from attar.runtime.server.app import application
from attar.runtime.server.exchange import MAX_BODY
from attar.runtime.server.models import Models
from attar.runtime.version import __version__
from tests.fixtures_bundle import MAX_BATCH, make_tiny_bundle
from tests.models import make_student
from tests.runtime.grpc_calls import (
    CHECK,
    INFER,
    RAW_REQUEST,
    RAW_RESPONSE,
    SERVICE,
    TYPED_REQUEST,
    TYPED_RESPONSE,
    YES,
    Code,
    M,
    call,
    converse,
    reply,
    request,
    serve,
    wire,
)
from tests.runtime.serving import ask

KINDS = ("tiny", "question-answering", "regression", "embeddings")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Model]:
    root = tmp_path_factory.mktemp("bundles")
    make_tiny_bundle(root / "tiny")
    for kind in KINDS[1:]:
        write(make_student(root / f"model-{kind}", kind=kind, layers=1), root / kind, name="student")
    return {kind: load(root / kind, threads=1) for kind in KINDS}


@pytest.fixture
def models(loaded: Mapping[str, Model]) -> Any:
    found = serve(loaded)
    yield found
    found.close(drain=False)


def test_messages_on_the_wire(models: Models) -> None:
    async def scenario(channel: Any) -> list[Any]:
        return [await reply(channel, INFER, message) for message in (TYPED_REQUEST, RAW_REQUEST)]

    assert converse(models, scenario) == [TYPED_RESPONSE, RAW_RESPONSE]


def test_health_and_metadata_on_the_wire(models: Models) -> None:
    async def scenario(channel: Any) -> list[Any]:
        calls = ("ServerLive", b""), ("ServerReady", b""), ("ModelReady", b"\x0a\x04tiny"), ("ServerMetadata", b"")
        return [await reply(channel, SERVICE + name, message) for name, message in calls]

    *health, metadata = converse(models, scenario)
    assert health == [YES, YES, YES]
    assert metadata == wire(1, "attar") + wire(2, __version__) + wire(3, "binary_tensor_data")
    assert call(models, CHECK) == b"\x08\x01"  # SERVING
    assert call(models, CHECK, b"\x0a\x1e" + SERVICE.strip("/").encode()) == b"\x08\x01"
    assert call(models, CHECK, b"\x0a\x01x").code() is Code.NOT_FOUND


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_metadata_and_answers_as_over_http(models: Models, kind: str) -> None:
    app = application(models, None)
    told = ask(app, "GET", f"/v2/models/{kind}").json()
    metadata = M["ModelMetadataResponse"].FromString(call(models, SERVICE + "ModelMetadata", wire(1, kind)))
    for ours, theirs in ((metadata.inputs, told["inputs"]), (metadata.outputs, told["outputs"])):
        assert [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in ours] == theirs
    assert (metadata.name, list(metadata.versions), metadata.platform) == (kind, ["1"], "attar")

    inputs = {i["name"]: ["The film was 東京 and dull", "What"] for i in told["inputs"]}
    tensors = [{"name": n, "shape": [2], "datatype": "BYTES", "data": texts} for n, texts in inputs.items()]
    wanted = ask(app, "POST", f"/v2/models/{kind}/infer", json={"inputs": tensors}).json()["outputs"]

    async def scenario(channel: Any) -> list[Any]:
        ways = request(kind, inputs), request(kind, inputs, raw=True), request(kind, inputs, binary_data_output=True)
        return [M["ModelInferResponse"].FromString(await reply(channel, INFER, w.SerializeToString())) for w in ways]

    typed, raw, asked = converse(models, scenario)
    for response in (typed, raw, asked):
        assert [(o.name, o.datatype, list(o.shape)) for o in response.outputs] == [
            (o["name"], o["datatype"], o["shape"]) for o in wanted
        ]
    fields = {"BOOL": "bool", "INT64": "int64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}
    for i, output in enumerate(wanted):
        values = list(getattr(typed.outputs[i].contents, f"{fields[output['datatype']]}_contents"))
        if output["datatype"] == "BYTES":
            assert [v.decode() for v in values] == output["data"]
        else:
            assert values == np.asarray(output["data"], np.float32 if output["datatype"] == "FP32" else None).tolist()
            kinds = {"BOOL": "?", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}
            assert np.frombuffer(raw.raw_output_contents[i], kinds[output["datatype"]]).tolist() == values
        assert not raw.outputs[i].HasField("contents")
    assert list(raw.raw_output_contents) == list(asked.raw_output_contents) and not typed.raw_output_contents


def test_many_texts_and_none(models: Models) -> None:
    for texts in (["good film"] * MAX_BATCH, []):
        found = M["ModelInferResponse"].FromString(
            call(models, INFER, request("tiny", {"text": texts}).SerializeToString())
        )
        assert list(found.outputs[0].contents.bytes_contents) == [b"positive"] * len(texts)


def changed(**fields: Any) -> Any:
    """A request whose only tensor is another one."""
    found = request("tiny", {"text": ["film"]})
    for name, value in fields.items():
        if name in ("shape", "contents"):
            found.inputs[0].ClearField(name)
            getattr(found.inputs[0], name).MergeFrom(value) if name == "contents" else found.inputs[0].shape.extend(
                value
            )
        else:
            setattr(found.inputs[0], name, value)
    return found


def other_parameter(**values: Any) -> Any:
    found = request("tiny", {"text": ["film"]})
    for field, value in values.items():
        setattr(found.parameters["timeout"], field, value)
    return found


def output(name: str, **parameters: bool) -> Any:
    found = request("tiny", {"text": ["film"]})
    for which in (name, "score"):
        asked = found.outputs.add(name=which)
        for key, value in parameters.items() if which == name else ():
            asked.parameters[key].bool_param = value
    return found


def both_contents() -> Any:
    found = request("tiny", {"text": ["film"]})
    found.raw_input_contents.append(b"\x04\0\0\0film")
    return found


def raw_bytes(data: bytes, *more: bytes, size: int | None = None) -> Any:
    found = request("tiny", {"text": ["film"]}, raw=True)
    found.raw_input_contents[:] = [data, *more]
    if size is not None:
        found.inputs[0].parameters["binary_data_size"].int64_param = size
    return found


REFUSED = [
    (changed(datatype="FP32"), "input 'text' must have datatype BYTES"),
    (changed(name="prompt"), "inputs must be text, each once"),
    (changed(shape=[2]), "has 1 values and shape [2]"),
    (changed(shape=[-1]), "at least 0"),
    (changed(shape=[1, 2]), "must have shape [N] or [N, 1]"),
    (changed(shape=[]), "at least 1"),
    (changed(contents=M["InferTensorContents"](bytes_contents=[b"\xff"])), "not UTF-8"),
    (changed(contents=M["InferTensorContents"](fp32_contents=[1.0])), "has 0 values"),
    (request("tiny", {}), "inputs has 0 items"),
    (request("tiny", {"text": ["a"] * (MAX_BATCH + 1)}), "at most 32"),
    (request("tiny", {"text": ["a"]}, sequence_id=3), "a key that is not known; known: timeout"),
    (other_parameter(int64_param=-1), "timeout must be at least 0"),
    (other_parameter(string_param="1"), "timeout must be a whole number"),
    (other_parameter(bool_param=True), "timeout must be a whole number"),
    (other_parameter(double_param=float("nan")), "timeout must be a whole number"),
    (output("logits"), "known: label, score, scores, truncated, answer"),
    (output("label", binary_data=True), "all binary, or none"),
    (output("label", classification=True), "a key that is not known"),
    (both_contents(), "or none has any"),
    (raw_bytes(b"\x04\0\0\0film", b"\x04\0\0\0film"), "of its own"),
    (raw_bytes(b"\x05\0\0\0film"), "ends within a string"),
    (raw_bytes(b"\x01\0\0\0\xff"), "not UTF-8"),
    (raw_bytes(b"\x04\0\0\0film", size=9), "binary_data_size is not that"),
]


def test_wrong_tensors_are_refused(models: Models) -> None:
    async def scenario(channel: Any) -> list[Any]:
        return [await reply(channel, INFER, message.SerializeToString()) for message, _ in REFUSED]

    for error, (_, words) in zip(converse(models, scenario), REFUSED, strict=True):
        assert error.code() is Code.INVALID_ARGUMENT and words in error.details(), (error, words)


def test_bytes_that_are_no_message_are_refused(models: Models) -> None:
    allowed = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.DEADLINE_EXCEEDED}
    rng = random.Random(0)

    def mutated() -> bytes:
        data = bytearray(rng.choice((TYPED_REQUEST, RAW_REQUEST)))
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randint(1, len(data))])

    async def scenario(channel: Any) -> list[Any]:
        return [await reply(channel, INFER, mutated()) for _ in range(200)]

    found = converse(models, scenario)
    assert {f.code() for f in found if not isinstance(f, bytes)} <= allowed
    error = call(models, INFER, b"\x0a\xfffilm")
    assert error.code() is Code.INVALID_ARGUMENT and "film" not in error.details()


def test_unknown_models_versions_and_calls(models: Models) -> None:
    for method in ("ModelInfer", "ModelReady", "ModelMetadata"):
        error = call(models, SERVICE + method, wire(1, "x"))
        assert error.code() is Code.NOT_FOUND and error.details().endswith(", ".join(sorted(KINDS)))
        assert call(models, SERVICE + method, wire(1, "tiny") + wire(2, "2")).code() is Code.NOT_FOUND
    assert call(models, SERVICE + "RepositoryIndex").code() is Code.UNIMPLEMENTED


def ignored(size: int) -> bytes:
    """A field 15 that the protocol does not have; its length is a varint of four bytes."""
    return b"\x7a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21]) + bytes(size)


def test_messages_that_are_too_large(models: Models) -> None:
    large = TYPED_REQUEST + ignored(MAX_BODY)
    assert call(models, INFER, large).code() is Code.RESOURCE_EXHAUSTED
    packed = call(models, INFER, large, compression=grpc.Compression.Gzip)
    assert packed.code() is Code.UNIMPLEMENTED
    assert call(models, INFER, TYPED_REQUEST + ignored(MAX_BODY - len(TYPED_REQUEST) - 5)) == TYPED_RESPONSE
