"""The HTTP server: every status, the order of answers, many clients at once, and its silence on texts."""

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from attar.runtime import server
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model, load
from tests.fixtures_bundle import MAX_BATCH, make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[httpx.Client]:
    """A client of a real server on a free port of the loopback interface, in a process of its own."""
    command = [sys.executable, "-m", "attar", "serve", str(bundle), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        address = re.search(r"http://\S+", process.stderr.readline())
        assert address is not None
        with httpx.Client(base_url=address.group(), timeout=30, trust_env=False) as found:
            yield found
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        process.wait(timeout=20)
        process.stderr.close()
    assert "film" not in rest  # no text in a log


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


@pytest.mark.parametrize("body", [b"", b"{", b'{"text": "\xff"}', b"[" * 100_000, b'{"text": ' + b"1" * 5000 + b"}"])
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
    large = b'{"text": "' + b"x" * server.MAX_BODY + b'"}'
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


def test_concurrent_requests_get_their_own_answers(client: httpx.Client, bundle: Path) -> None:
    texts = ["film " + "good " * (i % 5) + "bad " * (i % 7) for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda text: client.post("/predict", json={"text": text}).json(), texts))
    expected = [a.scores for a in load(bundle, threads=1)(texts)]
    assert [r["answers"][0]["scores"] for r in replies] == expected


class _Stub:
    """Stands for a model that blocks, or breaks with a text in its message."""

    def __init__(self, real: Model) -> None:
        self.manifest, self.engine, self.task = real.manifest, real.engine, real.task
        self.gate = threading.Event()

    def answer(self, texts: list[str]) -> list[Any]:
        if texts == ["break"]:
            raise RuntimeError("secret text")
        assert self.gate.wait(20)
        return []


def test_busy_model_leaves_health_alive_and_failures_silent(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stub = _Stub(load(bundle, threads=1))
    monkeypatch.setattr(server, "MAX_WAITING", 2)
    caplog.set_level(logging.DEBUG, logger="attar.server")

    async def scenario() -> None:
        app = server.create_app(stub)  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            broken = await client.post("/predict", json={"text": "break"})
            assert (broken.status_code, broken.json()) == (500, {"error": "internal error"})
            busy = [asyncio.create_task(client.post("/predict", json={"text": "wait"})) for _ in range(2)]
            await asyncio.sleep(0.1)
            assert (await client.get("/livez")).status_code == 200
            assert (await client.post("/predict", json={"text": "wait"})).status_code == 503
            stub.gate.set()
            assert [(await task).status_code for task in busy] == [200, 200]

    asyncio.run(scenario())
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_port_in_use_is_a_clear_error(bundle: Path) -> None:
    with server._listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}"):
            server.serve(bundle, port=port, threads=1)


def test_an_impossible_port_is_refused() -> None:
    with pytest.raises(SettingsError, match="port must be"):
        server._listen("127.0.0.1", 99999)


def test_server_imports_without_its_extra() -> None:
    code = "import sys; sys.modules['starlette'] = None; import attar.runtime.server as s; s.create_app(None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert "MissingExtraError" in done.stderr
    assert "attar[serve]" in done.stderr
