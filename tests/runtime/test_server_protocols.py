"""Several models at once, the Open Inference Protocol, OpenAI's embeddings, the description of routes, keys and TLS."""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from attar.cli import main
from attar.export.bundle import write
from attar.runtime import server
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model, load
from attar.runtime.server import Settings
from attar.runtime.server.app import application
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models, find_bundles
from attar.runtime.server.operations import OPERATIONS, PAGE, openapi
from attar.runtime.server.schemas import problem
from attar.runtime.tasks.base import jsonable
from attar.runtime.waiting import Limits
from tests.fixtures_bundle import MAX_BATCH, make_tiny_bundle
from tests.models import make_student
from tests.runtime.serving import ask, serving

KINDS = ("pairs", "multi-label", "regression", "token-classification", "question-answering", "embeddings", "multi-task")
TEXT, PAIR = "The film was charming and dull", ("What was it?", "The film was charming")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles by the names of their kinds, and something else that is none."""
    root = tmp_path_factory.mktemp("bundles")
    make_tiny_bundle(root / "tiny")
    for kind in KINDS:
        write(make_student(root / f".model-{kind}", kind=kind, layers=1), root / kind, name="student")
    (root / "notes").mkdir()
    return root


@pytest.fixture(scope="module")
def models(folder: Path) -> Mapping[str, Model]:
    return {kind: load(folder / kind, threads=1) for kind in ("tiny", *KINDS)}


@pytest.fixture(scope="module")
def app(models: Mapping[str, Model]) -> Any:
    return server.create_app(models)


def example(models: Mapping[str, Model], kind: str) -> Any:
    return PAIR if models[kind].task.pairs else TEXT


def test_a_folder_of_bundles_is_served_by_the_names_of_folders(folder: Path) -> None:
    assert sorted(filter(None, find_bundles(folder))) == sorted(("tiny", *KINDS))
    with serving(folder) as (_, address), httpx.Client(base_url=address, timeout=20, trust_env=False) as client:
        assert [m["name"] for m in client.get("/models").json()["models"]] == sorted(("tiny", *KINDS))
        reply = client.post("/models/tiny/predict", json={"text": "a good film"})
        assert reply.json()["answers"][0]["label"] == "positive"
        reply = client.post("/predict", json={"text": "a good film"})
        assert reply.status_code == 404 and "multi-task, pairs" in reply.json()["error"]


def test_options_are_for_a_single_bundle(folder: Path) -> None:
    with pytest.raises(SettingsError, match="single bundle"):
        server.serve(folder, port=0, threads=1, options={"top_k": 1})


def test_while_models_load_only_health_answers() -> None:
    app = application(Models(Meter(), Limits()), None)
    assert ask(app, "GET", "/livez").status_code == 200
    for path in ("/readyz", "/models", "/v2/health/ready", "/"):
        assert ask(app, "GET", path).status_code == 503, path
    refused = ask(app, "POST", "/predict", json={"text": "film"})
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("kind", ["tiny", *KINDS])
def test_every_task_answers_by_the_plain_api(app: Any, models: Mapping[str, Model], kind: str) -> None:
    item = example(models, kind)
    reply = ask(app, "POST", f"/models/{kind}/predict", json={"texts": [item, item]})
    wanted = json.loads(json.dumps(jsonable(models[kind](item))))
    assert (reply.status_code, reply.json()) == (200, {"answers": [wanted] * 2})
    assert ask(app, "GET", f"/models/{kind}").json()["task"] == models[kind].task.kind


@pytest.mark.parametrize("path", ["/models/x/predict", "/v2/models/x/infer"])
def test_unknown_models_are_404_with_the_known_ones(app: Any, path: str) -> None:
    reply = ask(app, "POST", path, json={"text": "film"})
    assert reply.status_code == 404 and reply.json()["error"].endswith(", ".join(sorted(("tiny", *KINDS))))


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


def embed(app: Any, **record: Any) -> httpx.Response:
    return ask(app, "POST", "/v1/embeddings", json={"model": "embeddings", **record})


def test_embeddings_as_openai_gives_them(app: Any, models: Mapping[str, Model]) -> None:
    model = models["embeddings"]
    vectors = [v.values for v in model([TEXT, "film"])]
    reply = embed(app, input=[TEXT, "film"], encoding_format="float").json()
    assert [d["index"] for d in reply["data"]] == [0, 1] and reply["object"] == "list"
    assert [d["embedding"] for d in reply["data"]] == [v.tolist() for v in vectors]
    tokens = sum(len(row) for row in model.tokenizer.encode([TEXT, "film"]).ids)
    assert reply["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    packed = embed(app, input=TEXT, encoding_format="base64").json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), dtype="<f4").tolist() == vectors[0].tolist()
    short = np.array(embed(app, input=TEXT, dimensions=4).json()["data"][0]["embedding"])
    np.testing.assert_allclose(short, vectors[0][:4] / np.linalg.norm(vectors[0][:4]), rtol=1e-5)
    assert embed(app, input=[]).json()["data"] == []


@pytest.mark.parametrize(
    ("record", "status", "words"),
    [
        ({"input": [1, 2]}, 422, "input must be a string or a list of strings"),
        ({"input": TEXT, "dimensions": 10_000}, 422, "dimensions must be at most"),
        ({"input": TEXT, "dimensions": 0}, 422, "dimensions must be at least 1"),
        ({"input": TEXT, "encoding_format": "int8"}, 422, "encoding_format must be one of float, base64"),
        ({"input": TEXT, "user": "me"}, 422, "not known"),
        ({"input": TEXT, "model": "x"}, 404, "no model of that name"),
        ({"input": TEXT, "model": "tiny"}, 422, "models for embeddings here: embeddings"),
        ({}, 422, "lacks 'input'"),
    ],
)
def test_errors_as_openai_gives_them(app: Any, record: Mapping[str, Any], status: int, words: str) -> None:
    reply = embed(app, **record)
    assert reply.status_code == status
    assert words in reply.json()["error"]["message"] and reply.json()["error"]["code"] == status


def test_a_number_that_is_not_finite_fails_its_request_alone(models: Mapping[str, Model]) -> None:
    own = Model.__new__(Model)
    own.__dict__.update(models["regression"].__dict__)
    engine = own.engine

    class Infinite:
        name, at_once = "infinite", 1

        def run(self, *arguments: Any) -> Any:
            return {name: np.full_like(values, np.nan) for name, values in engine.run(*arguments).items()}

    own.engine = Infinite()
    reply = ask(server.create_app(own), "POST", "/predict", json={"text": "film"})
    assert (reply.status_code, reply.json()) == (500, {"error": "the model's answer holds a number that is not finite"})


def test_metrics_are_what_prometheus_reads(models: Mapping[str, Model]) -> None:
    app = server.create_app({'odd"name': models["tiny"]})
    ask(app, "POST", "/predict", json={"texts": ["good film", "bad"]})
    ask(app, "POST", "/predict", content=b"{")
    reply = ask(app, "GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = reply.text.splitlines()
    for line in lines:  # the grammar of the exposition format
        assert re.fullmatch(r"# (HELP|TYPE) attar_\w+ .+|attar_\w+(\{(\w+=\"([^\"\\]|\\.)*\",?)+\})? [0-9.e+-]+", line)
    assert 'attar_requests_total{route="/predict",code="200"} 1' in lines
    assert 'attar_rejections_total{reason="bad json"} 1' in lines
    assert 'attar_batch_tokens_sum{model="odd\\"name"} 5.0' in lines
    assert 'attar_batch_texts_bucket{model="odd\\"name",le="1"} 0' in lines
    assert 'attar_batch_texts_bucket{model="odd\\"name",le="2"} 1' in lines
    assert 'attar_batch_texts_bucket{model="odd\\"name",le="+Inf"} 1' in lines
    for name in ("queue_seconds", "tokenize_seconds", "infer_seconds"):
        assert f'attar_{name}_count{{model="odd\\"name"}} 1' in lines


def test_every_route_is_described_and_every_example_validates(app: Any) -> None:
    described = ask(app, "GET", "/openapi.json").json()
    routes = {(route.path, method) for route in app.routes for method in route.methods - {"HEAD"}}
    assert routes == {(path, m.upper()) for path, found in described["paths"].items() for m in found}
    assert described == json.loads(json.dumps(openapi()))
    checked = 0
    for operation in OPERATIONS:
        for schema in (operation.body, operation.replies, operation.error):
            if isinstance(schema, Mapping):
                for value in schema.get("examples", ()):
                    assert problem(value, schema) is None
                    checked += 1
    assert checked > 20


def test_examples_of_requests_are_answered_in_the_form_described(models: Mapping[str, Model]) -> None:
    app = server.create_app({"embeddings": models["embeddings"]})
    bodies = [o for o in OPERATIONS if o.body]
    assert len(bodies) == 4
    for operation in bodies:
        assert operation.body is not None
        for body in operation.body["examples"]:
            reply = ask(app, "POST", operation.path.replace("{name}", "embeddings"), json=body)
            assert reply.status_code == 200, operation.path
            assert not isinstance(operation.replies, str) and problem(reply.json(), operation.replies) is None


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 1}, [1, 7], [0, True, 1.5, "1", None]),
        ({"type": "number"}, [1, 1.5], [True, "1"]),
        ({"type": "boolean"}, [True], [1, None]),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}, [["a"]], [[], ["a"] * 3, [1]]),
        ({"enum": ["a", "b"]}, ["a"], ["c", None]),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False},
         [{"a": "x"}], [{}, {"a": 1}, {"a": "x", "b": 1}, []]),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "a word"}, ["a", 1], [None, 1.5]),
    ],
)  # fmt: skip
def test_schemas_are_read_as_json_schema_has_it(schema: Mapping[str, Any], good: list[Any], bad: list[Any]) -> None:
    assert [problem(value, schema) for value in good] == [None] * len(good)
    assert all(problem(value, schema) for value in bad)


def test_the_page_works_offline_and_shows_texts_as_text(app: Any) -> None:
    for path in ("/", "/docs"):
        reply = ask(app, "GET", path, headers={"accept": "text/html,*/*"})
        assert reply.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in reply.headers["content-security-policy"]
    page = PAGE.read_text(encoding="utf-8")
    assert not re.search(r"https?://|//\w+\.\w+|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page)


def test_a_key_is_wanted_for_all_but_health_and_the_page(models: Mapping[str, Model]) -> None:
    app = server.create_app(models["tiny"], Settings(api_key="s3cret"))
    for given in (None, "Bearer", "Bearer wrong", "s3cret", "Basic s3cret", "Bearer s3cret\u00e9"):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        for method, path in (("GET", "/models"), ("POST", "/predict"), ("GET", "/metrics"), ("GET", "/")):
            reply = ask(app, method, path, headers=headers)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer"), (path, given)
    for path in ("/livez", "/readyz", "/v2/health/live", "/docs", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 200
    headers = {"authorization": "Bearer s3cret"}
    assert ask(app, "POST", "/predict", json={"text": "film"}, headers=headers).status_code == 200
    assert "s3cret" not in repr(Settings(api_key="s3cret"))


def test_the_key_comes_from_a_file_or_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr(server, "serve", lambda *arguments: seen.append(arguments[-1]))
    monkeypatch.setenv("ATTAR_API_KEY", "from the environment")
    (tmp_path / "key").write_text("from a file\n")
    assert main(["serve", str(folder / "tiny")]) == 0
    assert main(["serve", str(folder / "tiny"), "--api-key-file", str(tmp_path / "key")]) == 0
    assert [s.api_key for s in seen] == ["from the environment", "from a file"]
    (tmp_path / "key").write_text("\n")
    assert main(["serve", str(folder / "tiny"), "--api-key-file", str(tmp_path / "key")]) == 2
    assert main(["serve", str(folder / "tiny"), "--api-key-file", str(tmp_path / "none")]) == 2
    assert "cannot be read from" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls(folder: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    with serving(folder / "tiny", "--ssl-certfile", certificate, "--ssl-keyfile", key) as (_, address):
        assert address.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(f"{address}/readyz", verify=context, trust_env=False).status_code == 200


def test_tls_files_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong.pem").write_text("nothing")
    for certificate, words in ((tmp_path / "none.pem", "no file"), (tmp_path / "wrong.pem", "cannot be used for TLS")):
        with pytest.raises(SettingsError, match=words):
            server.serve(folder / "tiny", port=0, settings=Settings(ssl_certfile=str(certificate)))


@pytest.mark.parametrize(
    "fields", [{"api_key": ""}, {"ssl_keyfile": "k"}, {"warm_up": -1}, {"drain_seconds": float("nan")}]
)
def test_impossible_settings_are_refused(fields: Mapping[str, Any]) -> None:
    make: Callable[..., Settings] = Settings
    with pytest.raises(SettingsError):
        make(**fields)
