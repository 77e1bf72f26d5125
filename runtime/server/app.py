"""The application: every operation behind one guard, which checks key and state, and counts what comes of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attar.runtime.server import guard
from attar.runtime.server.exchange import Bodies, reply
from attar.runtime.server.models import Models
from attar.runtime.server.operations import OPERATIONS, Operation, wants_page
from attar.runtime.server.refusals import RefusedError


def application(models: Models, key: str | None) -> Starlette:
    """The ASGI application around models that are loaded, or will be; `key`: what clients must bring, if any."""

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        models.meter.count("requests_total", route="other", code=str(error.status_code))
        return reply({"error": error.detail}, error.status_code, dict(error.headers or {}))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        models.close(drain=False)  # whoever drains has waited for those that were admitted

    busiest_first = sorted(OPERATIONS, key=lambda o: o.body is None)  # routes are tried one after another
    routes = [Route(o.path, _guarded(o, models, key), methods=[o.method]) for o in busiest_first]
    app = Starlette(routes=routes, middleware=[Middleware(Bodies)], exception_handlers={HTTPException: unknown},
                    lifespan=lifespan)  # fmt: skip
    app.router.redirect_slashes = False  # it would build the address from a Host header of any form
    return app


def _guarded(operation: Operation, models: Models, key: str | None) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of an operation: whatever happens in it, the client gets a reply and no text gets into a log."""
    work = int(operation.body is not None)

    async def endpoint(request: Request) -> Response:
        start = time.perf_counter()
        models.active += work
        try:
            _admit(operation, models, key, request)
            response = await operation.handler(models, request)
        except Exception as error:
            response = _refused(operation, guard.refused(models, operation.path, error))
        finally:
            models.active -= work
        if models.state == "draining":
            response.headers["connection"] = "close"
        guard.finished(models, operation.path, response.status_code, start)
        return response

    return endpoint


def _admit(operation: Operation, models: Models, key: str | None, request: Request) -> None:
    if operation.open or (operation.path == "/" and wants_page(request)):
        return
    guard.check_key(key, request.headers.get("authorization", ""))
    if operation.path != "/metrics":
        guard.check_state(models)
    models.admitted += operation.body is not None


def _refused(operation: Operation, found: RefusedError) -> Response:
    headers = {"www-authenticate": "Bearer"} if found.status == 401 else found.headers
    message: Any = str(found)
    if operation.path.startswith("/v1/"):  # as OpenAI's clients read it
        message = {"message": message, "type": found.reason, "code": found.status}
    return reply({"error": message}, found.status, headers)
