"""The HTTP server: every status, the order of answers, many clients at once, and its silence on texts."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from attar.runtime import server
from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.model import Model, load
from attar.runtime.server import Settings, exchange
from attar.runtime.server.setup import listen
from attar.runtime.waiting import Limits
from tests.fixtures_bundle import MAX_BATCH, make_tiny_bundle
from tests.runtime.serving import ask, holding, serving


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    """A client of a real server on a free port of the loopback interface, in a process of its own."""
    with serving(bundle) as (_, address), httpx.Client(base_url=address, timeout=30, trust_env=False) as found:
        yield found


def test_answers_keep_the_order(client: httpx.Client) -> None:
    texts = ["a good film", "bad film", "great fine good film", "dull"]
    reply = client.post("/predict", json={"texts": texts})
    assert reply.status_code == 200
    answers = reply.json()["answers"]
    assert [a["label"] for a in answers] == ["positive", "negative", "positive", "negative"]
    assert set(answers[0]) == {"label", "score", "scores", "truncated"}
    assert answers[0]["score"] == max(answers[0]["scores"].values())


@pytest.mark.parametrize("body", [{"texts": "a good film"}, {"text": "a good film"}, {"texts": ["a good film"]}])
def test_ways_to_send_one_text(client: httpx.Client, body: dict[str, Any]) -> None:
    answers = client.post("/predict", json=body).json()["answers"]
    assert [a["label"] for a in answers] == ["positive"]


def test_unusual_but_valid(client: httpx.Client) -> None:
    assert client.post("/predict", json={"texts": []}).json() == {"answers": []}
    assert client.post("/predict", content=b'{"text": "half \\ud83d"}').status_code == 200
    assert client.post("/predict", json={"text": ""}).status_code == 200
    assert client.post("/predict", json={"text": "film " * 50}).json()["answers"][0]["truncated"] is True
    assert client.post("/predict", json={"texts": ["film"] * MAX_BATCH}).status_code == 200
    longest = client.post("/predict", json={"text": "good " + "x" * (exchange.MAX_BODY - 20)})
    assert longest.json()["answers"][0]["label"] == "positive"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"text": "\xff"}', b"[" * 100_000, b'{"text": ' + b"1" * 5000 + b"}", b'{"text": NaN}', b"Infinity"],
)
def test_bad_json_is_400(client: httpx.Client, body: bytes) -> None:
    reply = client.post("/predict", content=body)
    assert (reply.status_code, set(reply.json())) == (400, {"error"})


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        "film",
        {"texts": 1},
        {"texts": None},
        {"text": ["film"]},
        {"texts": ["film", 2]},
        {"texts": {"a": "film"}},
        {"text": "film", "texts": ["film"]},
        {"text": "film", "top_k": 2},
        {"texts": ["film"] * (MAX_BATCH + 1)},
    ],
)
def test_wrong_shapes_are_422(client: httpx.Client, body: Any) -> None:
    reply = client.post("/predict", content=json.dumps(body))
    assert (reply.status_code, set(reply.json())) == (422, {"error"})


def test_large_bodies_are_413(client: httpx.Client) -> None:
    large = b'{"text": "' + b"x" * exchange.MAX_BODY + b'"}'
    assert client.post("/predict", content=large).json()["error"].startswith("the body is larger")
    assert client.post("/predict", content=iter([large])).status_code == 413  # chunked: no declared length


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    missing, method = client.get("/nope"), client.get("/predict")
    assert (missing.status_code, set(missing.json())) == (404, {"error"})
    assert (method.status_code, set(method.json()), method.headers["allow"]) == (405, {"error"}, "POST")


def test_health_and_about(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    about = client.get("/").json()
    assert (about["name"], about["labels"]) == ("tiny", ["negative", "positive"])
    assert about["limits"]["max_batch"] == MAX_BATCH


def test_concurrent_requests_get_their_own_answers(client: httpx.Client, model: Model) -> None:
    texts = ["film " + "good " * (i % 5) + "bad " * (i % 7) for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda text: client.post("/predict", json={"text": text}).json(), texts))
    assert [r["answers"][0]["scores"] for r in replies] == [a.scores for a in model(texts)]


def raw(client: httpx.Client, data: bytes) -> socket.socket:
    """A connection over which some bytes were sent."""
    found = socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20)
    found.sendall(data)
    return found


def request(body: bytes, length: int | None = None) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def test_clients_that_hang_up_or_do_not_read_harm_nobody(client: httpx.Client) -> None:
    body = json.dumps({"texts": ["film"] * MAX_BATCH}).encode()
    for part in (request(body), request(body, len(body) + 9), request(body)[:30], b"\x00\xff nonsense\r\n\r\n"):
        raw(client, part).close()
    readers = [raw(client, request(body)) for _ in range(5)]  # they never read
    assert client.post("/predict", json={"text": "good"}).status_code == 200
    for reader in readers:
        reader.close()
    assert client.post("/predict", json={"text": "good"}).status_code == 200


def test_a_body_that_comes_too_slowly_is_408(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.02)

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"text": '
        await asyncio.sleep(5)
        yield b'"film"}'

    reply = ask(server.create_app(model), "POST", "/predict", content=slowly())
    assert (reply.status_code, set(reply.json())) == (408, {"error"})


@pytest.mark.parametrize("seconds", ["0", "-1", "0.000001"])
def test_a_deadline_that_has_passed_is_504(client: httpx.Client, seconds: str) -> None:
    reply = client.post("/predict", json={"text": "film"}, headers={"X-Request-Timeout": seconds})
    assert (reply.status_code, set(reply.json())) == (504, {"error"})


@pytest.mark.parametrize("seconds", ["soon", "nan", "inf", ""])
def test_a_deadline_is_a_number(client: httpx.Client, seconds: str) -> None:
    reply = client.post("/predict", json={"text": "film"}, headers={"X-Request-Timeout": seconds})
    assert reply.status_code == 422 and "X-Request-Timeout" in reply.json()["error"]


def test_a_busy_model_leaves_health_alive_and_refuses_with_a_time(model: Model) -> None:
    own, engine = holding(model)
    app = server.create_app(own, Settings(limits=Limits(max_requests=1, at_once=1)))

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            busy = [asyncio.create_task(client.post("/predict", json={"text": "wait"}))]
            await asyncio.to_thread(engine.entered.wait, 20)
            busy.append(asyncio.create_task(client.post("/predict", json={"text": "wait"})))
            await asyncio.sleep(0.05)
            assert (await client.get("/livez")).status_code == 200
            full = await client.post("/predict", json={"text": "wait"})
            assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
            late = await client.post("/predict", json={"texts": []}, headers={"X-Request-Timeout": "0"})
            assert late.status_code == 504
            metrics = (await client.get("/metrics")).text
            engine.opened.set()
            assert [(await task).status_code for task in busy] == [200, 200]
        assert 'attar_queue_requests{model="tiny"} 1\n' in metrics
        assert 'attar_rejections_total{reason="full"} 1\n' in metrics

    asyncio.run(scenario())


def test_failures_are_silent(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    own, engine = holding(model)
    engine.opened.set()
    caplog.set_level(logging.DEBUG, logger="attar.server")
    app = server.create_app(own)
    broken = ask(app, "POST", "/predict", json={"text": "awful"})
    assert (broken.status_code, broken.json()) == (500, {"error": "internal error"})
    assert ask(app, "POST", "/predict", json={"text": "good"}).status_code == 200
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert {"route": "/predict", "error": "RuntimeError"} in fields
    assert "secret" not in caplog.text + str(fields) and "awful" not in caplog.text + str(fields)


def test_draining_refuses_new_requests_and_answers_those_it_has(bundle: Path) -> None:
    body = b'{"text": "a good film"}'
    with (
        serving(bundle, "--drain-seconds", "0.3") as (process, address),
        httpx.Client(base_url=address, timeout=20, trust_env=False) as client,
    ):
        held = raw(client, request(body)[:-5])  # admitted, and not complete
        while "attar_active_requests 1\n" not in client.get("/metrics").text:
            pass
        process.send_signal(signal.SIGTERM)
        while (ready := client.get("/readyz")).status_code == 200:
            pass
        assert ready.json() == {"status": "draining"}
        assert client.get("/livez").status_code == 200
        refused = client.post("/predict", json={"text": "film"})
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        held.sendall(request(body)[-5:])
        answer = b"".join(iter(lambda: held.recv(4096), b""))
        held.close()
    assert answer.startswith(b"HTTP/1.1 200") and b'"positive"' in answer


def test_requests_are_logged_as_json_without_texts(bundle: Path) -> None:
    with serving(bundle, "--log-requests") as (process, address):
        httpx.post(f"{address}/predict", json={"text": "film"}, trust_env=False)
        httpx.post(f"{address}/predict?text=film", content=b"film", trust_env=False)
        assert process.stderr is not None
        lines = [json.loads(process.stderr.readline()) for _ in range(2)]
    assert [(line["event"], line["route"], line["code"]) for line in lines] == [
        ("request", "/predict", 200), ("request", "/predict", 400),
    ]  # fmt: skip


def test_a_port_in_use_is_a_clear_error(bundle: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}"):
            server.serve(bundle, port=port, threads=1)


def test_an_impossible_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="port must be"):
        listen("127.0.0.1", 99999)


def test_a_bundle_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(b"altered")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx"):
        server.serve(folder, port=0, threads=1)
    with pytest.raises(BundleError, match="neither it nor a folder in it"):
        server.serve(tmp_path / "empty", port=0)


def test_server_imports_without_its_extra() -> None:
    code = "import sys; sys.modules['starlette'] = None; import attar.runtime.server as s; s.create_app(None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert "MissingExtraError" in done.stderr
    assert "attar[serve]" in done.stderr
