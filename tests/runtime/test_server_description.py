"""The description of routes, the schemas that requests are checked against, and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from attar.runtime import server
from attar.runtime.model import Model
from attar.runtime.server.operations import OPERATIONS, PAGE, openapi
from attar.runtime.server.schemas import problem
from tests.runtime.serving import ask


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
