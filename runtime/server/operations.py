"""Every route of the server, once: what is routed, what is documented, who may ask, and when."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from attar.runtime.server import json_api, oip, openai, schemas
from attar.runtime.server.exchange import reply
from attar.runtime.server.models import Models
from attar.runtime.server.schemas import Schema
from attar.runtime.version import __version__

PAGE = Path(__file__).with_name("page.html")
FAILURES = {
    400: "Not JSON in UTF-8.", 401: "Without the API key.", 404: "No such model.", 408: "The body came too slowly.",
    413: "The body is too large.", 415: "The body is compressed.", 422: "Another form than this one.",
    429: "The queue is full; see Retry-After.",
    500: "A failure of the server.", 503: "Loading, or about to stop.", 504: "Not answered in time.",
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """A route: `open` ones need no API key and are answered while models load and while the server drains.

    `programs`: what those get who do not ask for the page.
    """

    method: str
    path: str
    summary: str
    handler: Callable[[Models, Request], Awaitable[Response]]
    replies: Schema | str
    body: Schema | None = None
    programs: Schema | None = None
    open: bool = False
    error: Schema = field(default_factory=lambda: schemas.ERROR)


async def alive(models: Models, request: Request) -> Response:
    return reply({"status": "alive"})


async def ready(models: Models, request: Request) -> Response:
    return reply({"status": models.state}, 200 if models.state == "ready" else 503)


async def metrics(models: Models, request: Request) -> Response:
    return Response(models.metrics(), media_type="text/plain; version=0.0.4")


async def root(models: Models, request: Request) -> Response:
    """A page for browsers; for programs what the only model is, or which ones there are."""
    if wants_page(request):
        return await page(models, request)
    if len(models.served) == 1:
        return reply(json_api.about(models.only()))
    return await json_api.list_models(models, request)


def wants_page(request: Request) -> bool:
    """Whether a browser asks."""
    return "text/html" in request.headers.get("accept", "")


async def page(models: Models, request: Request) -> Response:
    content = PAGE.read_bytes()
    return Response(content, headers={"content-security-policy": policy(content)}, media_type="text/html")


def policy(content: bytes) -> str:
    """Nothing but a page's own script and style may run or load, whatever a text or an answer holds."""
    own = {
        tag: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(found).digest()).decode()}'"
            for found in re.findall(b"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
        )
        for tag in (b"script", b"style")
    }
    return (
        f"default-src 'none'; connect-src 'self'; img-src data:; script-src {own[b'script']}; "
        f"style-src {own[b'style']}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def description(models: Models, request: Request) -> Response:
    return reply(openapi())


OPERATIONS = (
    Operation("GET", "/", "For browsers a page to try the models; for programs what they are.", root, "text/html",
              programs=schemas.ABOUT_OR_MODELS),
    Operation("GET", "/docs", "The same page.", page, "text/html", open=True),
    Operation("GET", "/openapi.json", "This description.", description, {"type": "object"}, open=True),
    Operation("GET", "/livez", "Whether the process answers.", alive, schemas.STATUS, open=True),
    Operation("GET", "/readyz", "Whether requests are taken.", ready, schemas.STATUS, open=True),
    Operation("GET", "/metrics", "Metrics for Prometheus.", metrics, "text/plain"),
    Operation("GET", "/models", "The models, their tasks and limits.", json_api.list_models, schemas.MODELS),
    Operation("GET", "/models/{name}", "One model.", json_api.one_model, schemas.ABOUT),
    Operation("POST", "/models/{name}/predict", "Answer texts.", json_api.predict, schemas.ANSWERS, schemas.PREDICT),
    Operation("POST", "/predict", "The same by the only model.", json_api.predict, schemas.ANSWERS, schemas.PREDICT),
    Operation("POST", "/v1/embeddings", "Embed texts, as OpenAI's clients ask for it.", openai.embeddings,
              schemas.EMBEDDED, schemas.EMBED, error=schemas.OPENAI_ERROR),
    Operation("GET", "/v2", "The server, by the Open Inference Protocol.", oip.server, schemas.SERVER, open=True),
    Operation("GET", "/v2/health/live", "As /livez.", oip.live, schemas.LIVE, open=True),
    Operation("GET", "/v2/health/ready", "As /readyz.", oip.ready, schemas.READY, open=True),
    Operation("GET", "/v2/models/{name}", "Inputs and outputs of a model.", oip.metadata, schemas.METADATA),
    Operation("GET", "/v2/models/{name}/ready", "Whether a model is ready.", oip.model_ready, schemas.MODEL_READY),
    Operation("POST", "/v2/models/{name}/infer", "Answer tensors of texts.", oip.infer, schemas.INFERRED,
              schemas.INFER),
)  # fmt: skip


def openapi() -> Schema:
    """The description of all routes by OpenAPI 3.1, from the definitions that requests are checked against."""
    paths: dict[str, dict[str, Schema]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    about = "Texts in, answers out. Requests may carry X-Request-Timeout: seconds."
    return {
        "openapi": "3.1.0",
        "info": {"title": "attar", "version": __version__, "description": about},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _described(operation: Operation) -> Schema:
    plain = isinstance(operation.replies, str)
    content: dict[str, Schema] = (
        {str(operation.replies): {}} if plain else {"application/json": {"schema": operation.replies}}
    )
    if operation.programs:
        content["application/json"] = {"schema": operation.programs}
    failures = {} if operation.open else FAILURES if operation.body else {c: FAILURES[c] for c in (401, 404, 503)}
    error = {"application/json": {"schema": operation.error}}
    found: dict[str, object] = {
        "summary": operation.summary,
        "responses": {"200": {"description": "The answer.", "content": content}}
        | {str(code): {"description": words, "content": error} for code, words in failures.items()},
    }
    parameters = [{"name": "name", "in": "path", "required": True, "schema": schemas.STRING}]
    if "{name}" in operation.path:
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
        header = {"name": "X-Request-Timeout", "in": "header", "schema": {"type": "number"}, "description": "seconds"}
        found["parameters"] = [*(parameters if "{name}" in operation.path else []), header]
    if not operation.open:
        found["security"] = [{}, {"key": []}]
    return found
