"""The Open Inference Protocol over gRPC: messages byte by byte, the same answers as HTTP, and every status."""

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from attar.cli import main
from attar.export.bundle import write
from attar.runtime import server
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model, load
from attar.runtime.server import Settings
from attar.runtime.server.app import application
from attar.runtime.server.exchange import MAX_BODY
from attar.runtime.server.grpc_messages import INFERENCE, messages
from attar.runtime.server.grpc_server import listen
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models
from attar.runtime.server.run import listen as listen_http
from attar.runtime.version import __version__
from attar.runtime.waiting import Limits
from tests.fixtures_bundle import MAX_BATCH, make_tiny_bundle
from tests.models import make_student
from tests.runtime.serving import ask, holding, serving, start

SERVICE, CHECK = "/inference.GRPCInferenceService/", "/grpc.health.v1.Health/Check"
INFER = SERVICE + "ModelInfer"
KINDS = ("tiny", "question-answering", "regression", "embeddings")
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


def wire(number: int, text: str) -> bytes:
    """A string as a field of a message."""
    return bytes([number << 3 | 2, len(text)]) + text.encode()


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


def test_while_models_load_or_the_server_drains_only_health_answers(models: Models) -> None:
    for state, words in (("loading", "being loaded"), ("draining", "about to stop")):
        models.state = state
        error = call(models, INFER, TYPED_REQUEST)
        assert error.code() is Code.UNAVAILABLE and words in error.details()
        assert ("retry-after", "1") in tuple(error.trailing_metadata())
        assert call(models, SERVICE + "ModelReady", wire(1, "tiny")).code() is Code.UNAVAILABLE
        assert call(models, SERVICE + "ServerLive") == YES
        assert call(models, SERVICE + "ServerReady") == NO
        assert call(models, CHECK) == b"\x08\x02"  # NOT_SERVING


def test_the_key(models: Models) -> None:
    def by(key: str | None, method: str = INFER) -> Any:
        metadata = None if key is None else (("authorization", key),)
        return call(models, method, TYPED_REQUEST, {"api_key": "s3cret"}, metadata=metadata)

    assert by("Bearer s3cret") == TYPED_RESPONSE
    for wrong in (None, "", "s3cret", "Bearer s3cre", "Bearer S3CRET"):
        error = by(wrong)
        assert error.code() is Code.UNAUTHENTICATED and "s3cret" not in error.details()
    assert by(None, SERVICE + "ModelReady").code() is Code.UNAUTHENTICATED
    assert by(None, SERVICE + "ServerLive") == YES


@pytest.mark.parametrize("microseconds", [0, 1, 10_000_000])
def test_timeouts_are_microseconds(models: Models, microseconds: int) -> None:
    found = call(models, INFER, request("tiny", {"text": ["film"]}, timeout=microseconds).SerializeToString())
    assert found.code() is Code.DEADLINE_EXCEEDED if microseconds == 1 else isinstance(found, bytes)


def test_full_queues_and_deadlines_of_those_that_wait(loaded: Mapping[str, Model]) -> None:
    own, engine = holding(loaded["tiny"])
    models = serve({"tiny": own}, max_requests=1, at_once=1)
    computed: list[int] = []
    run = engine.run
    engine.run = lambda ids, mask, types=None: computed.append(len(ids)) or run(ids, mask, types)

    async def scenario(channel: Any) -> None:
        first = asyncio.create_task(reply(channel, INFER, TYPED_REQUEST))
        await asyncio.to_thread(engine.entered.wait, 20)
        waiting = asyncio.create_task(reply(channel, INFER, TYPED_REQUEST, timeout=0.3))
        while not models.served["tiny"].batcher.waiting_requests:
            await asyncio.sleep(0.001)
        full = await reply(channel, INFER, TYPED_REQUEST)
        assert full.code() is Code.RESOURCE_EXHAUSTED
        assert int(dict(full.trailing_metadata())["retry-after"]) >= 1
        assert (await waiting).code() is Code.DEADLINE_EXCEEDED
        while models.active > 1:
            await asyncio.sleep(0.001)
        left = channel.unary_unary(INFER)(TYPED_REQUEST)
        while models.active == 1:
            await asyncio.sleep(0.001)
        left.cancel()
        while models.active > 1:
            await asyncio.sleep(0.001)
        engine.opened.set()
        assert await first == TYPED_RESPONSE
        assert await reply(channel, INFER, TYPED_REQUEST) == TYPED_RESPONSE

    converse(models, scenario)
    models.close()
    assert computed == [1, 1]  # nobody waited for the others any more
    assert 'attar_rejections_total{reason="full"} 1\n' in models.meter.text()


def test_failures_are_silent(loaded: Mapping[str, Model], caplog: pytest.LogCaptureFixture) -> None:
    own, engine = holding(loaded["tiny"])
    engine.opened.set()
    caplog.set_level(logging.DEBUG, logger="attar.server")
    models = serve({"tiny": own})
    error = call(models, INFER, request("tiny", {"text": ["awful"]}).SerializeToString())
    models.close()
    assert (error.code(), error.details()) == (Code.INTERNAL, "internal error")
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert {"route": INFER, "error": "RuntimeError"} in fields
    assert "secret" not in caplog.text + str(fields) and "awful" not in caplog.text + str(fields)


def test_metrics_count_both_protocols(models: Models) -> None:
    call(models, INFER, TYPED_REQUEST)
    call(models, INFER, wire(1, "x"))
    app = application(models, None)
    ask(app, "POST", "/models/tiny/predict", json={"text": "film"})
    text = ask(app, "GET", "/metrics").text
    assert f'attar_requests_total{{route="{INFER}",code="OK"}} 1\n' in text
    assert f'attar_requests_total{{route="{INFER}",code="NOT_FOUND"}} 1\n' in text
    assert f'attar_request_seconds_count{{route="{INFER}"}} 2\n' in text
    assert 'attar_requests_total{route="/models/{name}/predict",code="200"} 1\n' in text
    assert 'attar_batch_texts_count{model="tiny"} 2\n' in text
    assert models.admitted == 3 and models.active == 0


def test_no_admitted_request_is_lost_at_sigterm(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")

    async def load_then_stop(process: Any, address: str) -> list[Any]:
        async with grpc.aio.insecure_channel(address.removeprefix("grpc://")) as channel:
            assert await reply(channel, INFER, TYPED_REQUEST) == TYPED_RESPONSE

            async def sender() -> list[Any]:
                found: list[Any] = []
                while not found or isinstance(found[-1], bytes):
                    found.append(await reply(channel, INFER, TYPED_REQUEST))
                return found

            senders = [asyncio.create_task(sender()) for _ in range(16)]
            await asyncio.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            return [one for found in await asyncio.gather(*senders) for one in found]

    process, _, address = start(bundle, "--grpc-port", 0)
    found = asyncio.run(load_then_stop(process, address))
    log = [json.loads(line) for line in process.stderr.read().splitlines()]
    process.stderr.close()
    assert process.wait(timeout=20) == 0
    answered = [f for f in found if isinstance(f, bytes)]
    assert set(answered) == {TYPED_RESPONSE}
    # The last ones may come while the port is being closed, which gRPC itself answers.
    assert {f.code() for f in found if not isinstance(f, bytes)} <= {Code.UNAVAILABLE, Code.CANCELLED}
    (drained,) = (line for line in log if line["event"] == "drained")
    assert (drained["admitted"], drained["unanswered"]) == (len(answered) + 1, 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_and_key_of_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_API_KEY", "s3cret")
    bundle, certificate = make_tiny_bundle(tmp_path / "tiny"), tmp_path / "both.pem"  # the key in the same file
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run([*command.split(), *map(str, names)], check=True, capture_output=True)
    certificate.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with serving(bundle, "--grpc-port", 0, "--ssl-certfile", certificate) as (_, http, address):
        trusted = grpc.ssl_channel_credentials((tmp_path / "cert.pem").read_bytes())
        assert (http[:8], address[:8]) == ("https://", "grpcs://")
        with grpc.secure_channel(address.removeprefix("grpcs://"), trusted) as channel:
            infer = channel.unary_unary(INFER)
            assert infer(TYPED_REQUEST, timeout=20, metadata=(("authorization", "Bearer s3cret"),)) == TYPED_RESPONSE
            with pytest.raises(grpc.RpcError):
                infer(TYPED_REQUEST, timeout=20)


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    with listen_http("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port} for gRPC"):
            server.serve(bundle, port=0, threads=1, settings=Settings(grpc_port=port))


def test_impossible_ports_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(make_tiny_bundle(tmp_path / "tiny")), "--grpc-port", "99999"]) == 2
    assert "the port for gRPC must be 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["grpc", "google.protobuf"])
def test_http_does_without_the_packages_of_grpc(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
import attar.runtime.server.run
from attar.runtime.server import Settings, serve
serve("nowhere", settings=Settings(grpc_port=0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert "MissingExtraError" in done.stderr and "attar[serve]" in done.stderr
