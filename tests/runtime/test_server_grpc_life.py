"""gRPC's server over time: health, keys, full queues, deadlines, metrics, TLS and its end."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from attar.cli import main
from attar.runtime import server
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model, load
from attar.runtime.server import Settings
from attar.runtime.server.app import application
from attar.runtime.server.models import Models
from attar.runtime.server.setup import listen as listen_http
from tests.fixtures_bundle import make_tiny_bundle
from tests.runtime.grpc_calls import (
    CHECK,
    INFER,
    NO,
    SERVICE,
    TYPED_REQUEST,
    TYPED_RESPONSE,
    YES,
    Code,
    call,
    converse,
    reply,
    request,
    serve,
    wire,
)
from tests.runtime.serving import ask, holding, serving, start


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return load(tiny, threads=1)


@pytest.fixture
def models(model: Model) -> Any:
    found = serve({"tiny": model})
    yield found
    found.close(drain=False)


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


def test_full_queues_and_deadlines_of_those_that_wait(model: Model) -> None:
    own, engine = holding(model)
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


def test_streams_answer_one_message_after_another(models: Models) -> None:
    def replies(key: str | None, *messages: bytes) -> Any:
        async def scenario(channel: Any) -> list[Any]:
            found: list[Any] = []
            metadata = None if key is None else (("authorization", f"Bearer {key}"),)
            try:
                stream = channel.stream_stream(SERVICE + "ModelStreamInfer")
                async for one in stream(iter(messages), timeout=20, metadata=metadata):
                    found.append(one)
            except grpc.aio.AioRpcError as error:
                found.append(error)
            return found

        return converse(models, scenario, api_key="s3cret")

    unknown = wire(1, "there is no model of that name; known: tiny")  # 1 error_message
    answered = wire(2, TYPED_RESPONSE)  # 2 infer_response
    assert replies("s3cret", TYPED_REQUEST, wire(1, "x"), TYPED_REQUEST) == [answered, unknown, answered]
    assert replies("s3cret") == []
    assert models.admitted == 3 and models.active == 0
    (refused,) = replies(None, TYPED_REQUEST)
    assert refused.code() is Code.UNAUTHENTICATED
    models.state = "draining"
    (refused,) = replies("s3cret", TYPED_REQUEST)
    assert refused.code() is Code.UNAVAILABLE


def test_failures_are_silent(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    own, engine = holding(model)
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


def test_no_admitted_request_is_lost_at_sigterm(tiny: Path) -> None:
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

    process, _, address = start(tiny, "--grpc-port", 0)
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
def test_tls_and_key_of_a_real_server(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_API_KEY", "s3cret")
    certificate = tmp_path / "both.pem"  # the key in the same file
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    subprocess.run([*command.split(), *map(str, names)], check=True, capture_output=True)
    certificate.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with serving(tiny, "--grpc-port", 0, "--ssl-certfile", certificate) as (_, http, address):
        trusted = grpc.ssl_channel_credentials((tmp_path / "cert.pem").read_bytes())
        assert (http[:8], address[:8]) == ("https://", "grpcs://")
        with grpc.secure_channel(address.removeprefix("grpcs://"), trusted) as channel:
            infer = channel.unary_unary(INFER)
            assert infer(TYPED_REQUEST, timeout=20, metadata=(("authorization", "Bearer s3cret"),)) == TYPED_RESPONSE
            with pytest.raises(grpc.RpcError):
                infer(TYPED_REQUEST, timeout=20)


def test_a_port_in_use_is_a_clear_error(tiny: Path) -> None:
    with listen_http("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port} for gRPC"):
            server.serve(tiny, port=0, threads=1, settings=Settings(grpc_port=port))


def test_impossible_ports_are_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tiny), "--grpc-port", "99999"]) == 2
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
