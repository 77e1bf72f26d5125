"""Input that no schema foresees: each is refused or answered, none is fatal, and no message quotes it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from tests.runtime.serving import ask

TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["film"]}
HUGE = "9" * 4000
DEEP = "[" * 900 + "]" * 900


def predict(app: Any, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(app, "POST", "/models/tiny/predict", content=content, headers=named)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"text": "a", "text": "b"}', 400),
        (b'{"texts": [{"text": "a", "text": "b"}]}', 400),
        (b"[" * 100_000, 400),
        (b'{"texts": ' + DEEP.encode() + b"}", 422),
        (b'{"texts": [' + HUGE.encode() + b"]}", 422),
        (b'{"text": 1e999}', 422),
        (b'{"text": -Infinity}', 400),
        (b'{"text": "caf\xe9"}', 400),  # Latin-1
        (b'{"text": "a\nb"}', 400),  # a control character as it is
        (b'\xef\xbb\xbf{"text": "good film"}', 200),  # a byte order mark
        (b'{"text": "good \xed\xa0\xbd film"}', 200),  # half an emoji, as it may come out of UTF-16
        (b'{"text": "good \\ud83d film"}', 200),
        (b'{"text": "good\\u0000film"}', 200),
        (b'{"\\ud83d": "film"}', 422),
        (b'{"texts": [""]}', 200),
        (b'{"texts": []}', 200),
        (b'{"texts": [[]]}', 422),
        (b'{"texts": [["a", "b"]]}', 422),
        (b'{"texts": [null]}', 422),
        (b'{"text": true}', 422),
        (b" \r\n\t", 400),
        (b'{"text": "film"} {"text": "film"}', 400),
    ],
)
def test_odd_json(app: Any, content: bytes, status: int) -> None:
    reply = predict(app, content)
    assert reply.status_code == status
    assert set(reply.json()) == ({"answers"} if status == 200 else {"error"})
    assert len(reply.content) < 1000  # and nothing of it is quoted


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "nonsense", "", "x;charset=utf-7"])
def test_the_content_type_does_not_matter(app: Any, kind: str) -> None:
    assert predict(app, b'{"text": "good film"}', content_type=kind).status_code == 200


def test_compressed_bodies_are_415(app: Any) -> None:
    reply = predict(app, gzip.compress(b'{"text": "film"}'), content_encoding="gzip")
    assert reply.status_code == 415 and "without a Content-Encoding" in reply.json()["error"]
    assert predict(app, gzip.compress(b'{"text": "film"}')).status_code == 400
    assert predict(app, b'{"text": "film"}', content_encoding="Identity").status_code == 200


@pytest.mark.parametrize(
    ("seconds", "status"),
    [("1e308", 200), ("1e-320", 504), ("-0", 504), ("-1e308", 504), ("1e309", 422), ("-inf", 422), ("NaN", 422),
     ("0x10", 422), ("1,5", 422), ("9" * 5000, 422), (" 5 ", 200)],
)  # fmt: skip
def test_odd_deadlines(app: Any, seconds: str, status: int) -> None:
    assert predict(app, b'{"text": "film"}', x_request_timeout=seconds).status_code == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"parameters": {"timeout": int(HUGE)}}, 422),
        ({"parameters": {"timeout": 2**63 - 1}}, 200),
        ({"parameters": {"timeout": -1}}, 422),
        ({"parameters": {"timeout": 1.5}}, 422),
        ({"parameters": {"timeout": True}}, 422),
        ({"id": "\ud83d"}, 200),
        ({"id": 7}, 422),
        ({"inputs": [{**TENSOR, "shape": [int(HUGE)]}]}, 422),
        ({"inputs": [{**TENSOR, "shape": []}]}, 422),
        ({"inputs": [{**TENSOR, "shape": [0], "data": []}]}, 200),
        ({"inputs": [{**TENSOR, "data": [["film"]]}]}, 200),
        ({"inputs": [{**TENSOR, "data": [[["film"]]]}]}, 422),
        ({"inputs": [{**TENSOR, "datatype": "FP64", "data": [1e308]}]}, 422),
        ({"inputs": [{**TENSOR, "parameters": {"binary_data_size": int(HUGE)}}]}, 422),
    ],
)
def test_odd_tensors(app: Any, changes: Mapping[str, Any], status: int) -> None:
    reply = ask(app, "POST", "/v2/models/tiny/infer", content=json.dumps({"inputs": [TENSOR]} | dict(changes)).encode())
    assert reply.status_code == status, reply.text
    if "id" in changes and status == 200:
        assert reply.json()["id"] == changes["id"]


def test_nan_in_tensors_is_no_json(app: Any) -> None:
    content = b'{"inputs": [{"name": "text", "shape": [1], "datatype": "FP32", "data": [NaN]}]}'
    assert ask(app, "POST", "/v2/models/tiny/infer", content=content).status_code == 400


def test_a_length_of_thousands_of_digits_is_refused(app: Any) -> None:
    headers = {"Inference-Header-Content-Length": "9" * 5000}
    assert ask(app, "POST", "/v2/models/tiny/infer", content=b"{}", headers=headers).status_code == 400


@pytest.mark.parametrize("name", ["x", "%00", "%2e%2e", "%ff", "tiny%20", "TINY", "a" * 5000, "%F0%9F%8E%89"])
def test_unknown_models_are_404(app: Any, name: str) -> None:
    for path in (f"/models/{name}/predict", f"/v2/models/{name}/infer"):
        reply = ask(app, "POST", path, content=b"{}")
        assert reply.status_code == 404 and len(reply.content) < 400


def test_the_address_is_not_completed(app: Any) -> None:
    """A redirect would be built from the Host header, whatever is in it."""
    for host in ("x", "[", "evil:99999999", "\xff"):
        assert ask(app, "POST", "/predict/", content=b"{}", headers={"host": host.encode("latin-1")}).status_code == 404


def test_texts_of_two_megabytes(app: Any) -> None:
    text = "good " + "x" * (2 << 20)
    reply = predict(app, json.dumps({"text": text[: (2 << 20) - 100]}).encode())
    assert reply.status_code == 200 and reply.json()["answers"][0]["label"] == "positive"
    assert predict(app, json.dumps({"text": text}).encode()).status_code == 413
