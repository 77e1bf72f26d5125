"""Several models at once, the plain API of every task, OpenAI's embeddings, and metrics."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from attar.runtime import server
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model
from attar.runtime.server.app import application
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models, find_bundles
from attar.runtime.tasks.base import jsonable
from attar.runtime.waiting import Limits
from tests.runtime.serving import KINDS, TEXT, ask, example, serving


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
