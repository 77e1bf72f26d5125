"""Requests made up from the server's own description: whatever they are, they get an answer that it describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from attar.runtime.server.operations import OPERATIONS

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis makes up the requests")
POSTS = [operation.path for operation in OPERATIONS if operation.body]


def checker(operation: Any, examples: int, seen: set[int]) -> Callable[[], None]:
    """Makes up so many requests for an operation, the same ones every time; `seen` gets the statuses."""
    from schemathesis.specs.openapi import checks

    described = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        if "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = "tiny"
        reply = case.call_and_validate(checks=described)
        assert reply.status_code < 500 or reply.status_code == 504  # a deadline that has passed
        seen.add(reply.status_code)

    return check


@pytest.fixture(scope="module")
def schema(app: Any) -> Any:
    async def lasting(scope: Any, receive: Any, send: Any) -> None:
        """The application, which each request would otherwise start and end."""
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
        else:
            await app(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", lasting)


@pytest.mark.parametrize("path", POSTS)
def test_made_up_requests_get_described_answers(schema: Any, path: str) -> None:
    seen: set[int] = set()
    checker(schema[path]["POST"], 25, seen)()
    assert seen


def test_everything_else_answers_too(schema: Any) -> None:
    seen: set[int] = set()
    for operation in OPERATIONS:
        if not operation.body:
            checker(schema[operation.path]["GET"], 3, seen)()
    assert 200 in seen
