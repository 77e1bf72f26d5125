"""Raw connections over both of uvicorn's protocols: nonsense, silence, clients that leave, and how many there are."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from attar.runtime import server
from attar.runtime.model import Model, load
from attar.runtime.server import Settings, connections, exchange
from attar.runtime.waiting import Limits
from tests.fixtures_bundle import make_tiny_bundle
from tests.runtime.listening import Address, connect, listening, protocols, rest
from tests.runtime.listening import exchange as send
from tests.runtime.serving import holding

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_bundle(tmp_path_factory.mktemp("connections") / "tiny"), threads=1)


@pytest.fixture(scope="module", params=sorted(protocols()))
def protocol(request: pytest.FixtureRequest) -> Any:
    return protocols()[request.param]


@pytest.fixture(scope="module")
def address(model: Model, protocol: Any) -> Iterator[Address]:
    with listening(server.create_app(model), protocol) as found:
        yield found


def post(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"POST /predict HTTP/1.1", b"Host: x", *headers, b"", b"")) + body


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100,
        b"\r\n\r\nnonsense\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /liv\x00ez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\na: b\x00c\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),  # TLS
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        post(b"{}", b"Content-Length: -1"),
        post(b"{}", b"Content-Length: 0x2"),
        post(b"{}", b"Content-Length: +2"),
        post(b"{}", b"Content-Length: 2", b"Content-Length: 3"),
        post(b"zz\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"-2\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"f" * 30 + b"\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"1\r\n{}\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        post(b"{}", b"Transfer-Encoding: chunked, identity", b"Connection: close"),
    ],
)
def test_nonsense_is_refused_and_its_connection_closed(address: Address, data: bytes) -> None:
    found = statuses(send(address, data))
    assert all(400 <= code < 500 or code == 501 for code in found)
    assert statuses(send(address, LAST)) == [200]


@pytest.mark.parametrize("version", [b"", b" HTTP/0.9", b" HTTP/9.9", b" HTTP/1.0"])
def test_other_versions_are_answered_or_refused(address: Address, version: bytes) -> None:
    found = statuses(send(address, b"GET /livez" + version + b"\r\nHost: x\r\n\r\n"))
    assert found in ([], [200], [400])


@pytest.mark.parametrize("order", [1, -1])
def test_a_request_of_two_lengths_smuggles_no_second_one(address: Address, order: int) -> None:
    inner = b"0\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    for path in (b"POST /predict", b"GET /readyz"):
        headers = [b"Content-Length: %d" % len(inner), b"Transfer-Encoding: chunked"][::order]
        data = b"\r\n".join((path + b" HTTP/1.1", b"Host: x", *headers, b"", inner))
        assert statuses(send(address, data)) == [400]


def test_pipelined_requests_get_their_answers_in_order(address: Address, model: Model) -> None:
    texts = ["film" + " good" * (i % 4) + " bad" * (i % 5) for i in range(20)]
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    data = b"".join(post(body, b"Content-Length: %d" % len(body)) for body in bodies)
    answer = send(address, data + LAST)
    assert statuses(answer) == [200] * 21
    scores = [json.loads(found)["answers"][0]["scores"] for found in re.findall(rb'{"answers".*?}]}', answer)]
    assert scores == [a.scores for a in model(texts)]


def test_headers_are_bounded(address: Address) -> None:
    many = b"".join(b"x%d: y\r\n" % i for i in range(20_000))
    for head in (b"x: " + b"a" * (1 << 20), many):
        found = statuses(send(address, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + head))
        assert found in ([], [400], [431])
    trailers = post(b"0\r\n" + many + b"\r\n", b"Transfer-Encoding: chunked")
    assert set(statuses(send(address, trailers))) <= {400}
    assert statuses(send(address, LAST)) == [200]


def test_upgrades_are_not_taken(address: Address) -> None:
    websocket = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert 101 not in statuses(send(address, websocket))
    assert statuses(send(address, LAST)) == [200]


def test_the_rest_of_a_refused_body_is_thrown_away(address: Address) -> None:
    body = b"x" * (exchange.MAX_BODY + (4 << 20))
    assert statuses(send(address, post(body, b"Content-Length: %d" % len(body)) + LAST)) == [413, 200]
    endless = post(b"", b"Content-Length: 99999999999") + b"x" * (connections.MAX_REST + (8 << 20))
    assert statuses(send(address, endless)) in ([413], [])  # it stops to read


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /livez HTTP/1.1\r\nHost",
        GET + b"GET /li",
        post(b"x" * 100, b"Content-Length: 1000", b"Content-Encoding: gzip"),
    ],
)
def test_silent_connections_are_closed(
    model: Model, protocol: Any, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.1)
    with listening(server.create_app(model), protocol) as address:
        assert statuses(send(address, data)) in ([], [200], [415])


def test_clients_that_do_not_read_are_left(model: Model, protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.1)
    body = json.dumps({"texts": ["film"] * 32}).encode()
    with listening(server.create_app(model), protocol) as address:
        deaf = connect(address, post(body, b"Content-Length: %d" % len(body)) * 4000)
        until(lambda: b"active_requests 0" in send(address, LAST.replace(b"livez", b"metrics")))
        deaf.close()


def until(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("it never came to hold")


def test_what_waits_for_a_client_that_left_is_not_computed(model: Model, protocol: Any) -> None:
    own, engine = holding(model)
    app = server.create_app(own, Settings(limits=Limits(at_once=1)))
    body = b'{"text": "film"}'
    request = post(body, b"Content-Length: %d" % len(body), b"Connection: close")

    def told(line: str) -> bool:
        return line.encode() in send(address, LAST.replace(b"livez", b"metrics"))

    with listening(app, protocol) as address:
        first = connect(address, request)
        assert engine.entered.wait(20)
        second = connect(address, request)
        until(lambda: told('attar_queue_requests{model="tiny"} 1\n'))
        second.close()
        until(lambda: told('attar_rejections_total{reason="gone"} 1\n'))
        engine.opened.set()
        assert statuses(rest(first)) == [200]
        assert statuses(send(address, request)) == [200]
        assert told('attar_batch_texts_sum{model="tiny"} 2.0\n')


def test_the_bodies_of_all_requests_together_are_bounded(
    model: Model, protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, engine = holding(model)
    body = json.dumps({"text": "film " * 1000}).encode()
    request = post(body, b"Content-Length: %d" % len(body), b"Connection: close")
    monkeypatch.setattr(exchange, "MAX_HELD", 2 * len(body) - 1)
    with listening(server.create_app(own), protocol) as address:
        first = connect(address, request)
        assert engine.entered.wait(20)
        refused = send(address, request)
        assert statuses(refused) == [429] and b"retry-after: 1" in refused
        engine.opened.set()
        assert statuses(rest(first)) == [200]
        until(lambda: statuses(send(address, request)) == [200])


def test_there_are_only_so_many_connections(model: Model, protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    with listening(server.create_app(model), protocol) as address:
        held = [connect(address, GET) for _ in range(3)]
        assert [c.recv(12) for c in held] == [b"HTTP/1.1 200"] * 3
        refused = send(address, b"")
        assert statuses(refused) == [503] and b"retry-after: 1" in refused
        held.pop().close()
        until(lambda: statuses(send(address, LAST)) == [200])
        for connection in held:
            connection.close()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_the_process_may_open_as_many_files_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    set_to: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: set_to.append(limits))
    for given in ((256, 1024), (256, resource.RLIM_INFINITY), (1 << 20, 1 << 20)):
        monkeypatch.setattr(resource, "getrlimit", lambda what, given=given: given)
        connections.raise_limit()
    wanted = connections.MAX_CONNECTIONS + connections.OTHER_FILES
    assert set_to == [(1024, 1024), (wanted, resource.RLIM_INFINITY)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 1024))
    assert connections.limit() == 1024 - connections.OTHER_FILES
