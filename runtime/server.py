"""A bundle over HTTP: JSON in, JSON out, every error as {"error": "..."}. No text ever reaches a log.

POST /predict   {"texts": "..." or [...]} or {"text": "..."}
                -> {"answers": [{label, score, scores, truncated}]}
GET  /          the model's name, task, labels and limits
GET  /livez     the process answers        GET /readyz     the model is loaded
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from attar.runtime.errors import DataError, MissingExtraError, SettingsError
from attar.runtime.model import Model, load
from attar.runtime.tasks.base import Task, jsonable
from attar.runtime.tokenizer import Text

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

MAX_BODY = 2 << 20
"""Bytes of a request; a larger one is refused with 413."""
WORKERS = 2
"""Calls computed at a time: one tokenizes while the other computes; more would fight for the cores."""
MAX_WAITING = 256
"""Requests computed or waiting; a further one gets 503 at once instead of a place in an endless queue."""

log = logging.getLogger("attar.server")


class _RefusedError(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Predictor:
    """Runs the model outside of the event loop, so that health checks are answered while it computes."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="attar")
        self._waiting = 0

    async def answers(self, texts: list[Text]) -> list[Any]:
        """The answers in the order of the texts."""
        if self._waiting >= MAX_WAITING:
            raise _RefusedError(503, "too many requests are waiting; try again later")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self.model.answer, texts)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def create_app(model: Model) -> Starlette:
    """The ASGI application around a loaded model."""
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise MissingExtraError("starlette", "serve") from error

    predictor = _Predictor(model)

    async def failed(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        predictor.close()

    return Starlette(
        routes=[
            Route("/predict", _predict(JSONResponse, predictor), methods=["POST"]),
            Route("/", _constant(JSONResponse, _about(model)), methods=["GET"]),
            Route("/livez", _constant(JSONResponse, {"status": "alive"}), methods=["GET"]),
            Route("/readyz", _constant(JSONResponse, {"status": "ready"}), methods=["GET"]),
        ],
        exception_handlers={HTTPException: failed},
        lifespan=lifespan,
    )


def _predict(response: type[JSONResponse], predictor: _Predictor) -> Callable[[Request], Any]:
    """The endpoint of POST /predict."""

    async def endpoint(request: Request) -> JSONResponse:
        try:
            texts = parse(await _body(request), predictor.model.manifest.limits["max_batch"], predictor.model.task)
            return response({"answers": [jsonable(a) for a in await predictor.answers(texts)]})
        except _RefusedError as error:
            return response({"error": str(error)}, error.status)
        except DataError as error:
            return response({"error": str(error)}, 422)
        except Exception as error:  # message and traceback could quote the text: neither is logged nor sent
            log.error("prediction failed: %s", type(error).__name__)
            return response({"error": "internal error"}, 500)

    return endpoint


def _constant(response: type[JSONResponse], content: dict[str, Any]) -> Callable[[Request], Any]:
    """An endpoint that always answers the same."""

    async def endpoint(_: Request) -> JSONResponse:
        return response(content)

    return endpoint


def _about(model: Model) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "name": manifest.name,
        "task": manifest.task.kind,
        "labels": list(getattr(manifest.task, "labels", ()) or getattr(manifest.task, "tags", ())),
        "limits": {**manifest.limits, "max_body": MAX_BODY},
        "engine": model.engine.name,
    }


async def _body(request: Request) -> bytes:
    """The whole body, given up as soon as it is too large: a declared length is not to be trusted."""
    from starlette.requests import ClientDisconnect

    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY:
                raise _RefusedError(
                    413, f"the body is larger than {MAX_BODY} bytes; send the texts in several requests"
                )
            parts.append(part)
    except ClientDisconnect as error:
        raise _RefusedError(400, "the client left before its request was complete") from error
    return b"".join(parts)


def parse(body: bytes, max_batch: int, task: Task) -> list[Text]:
    """The inputs of a request, in the task's form. Lone surrogates pass: the tokenizer replaces them."""
    try:
        record = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _RefusedError(400, "the body is not valid JSON in UTF-8") from error
    keys = record.keys() if isinstance(record, dict) else set()
    if keys not in ({"texts"}, {"text"}):
        raise _RefusedError(422, 'the body must be {"texts": "..."}, {"texts": ["...", ...]} or {"text": "..."}')
    texts = record.get("texts", record.get("text"))
    if "text" in keys or isinstance(texts, str | dict):
        return [_input(texts, task, "text")]
    if not isinstance(texts, list):
        raise _RefusedError(422, "texts must be one input or a list of inputs")
    if len(texts) > max_batch:
        raise _RefusedError(422, f"{len(texts)} texts in one request; this model takes at most {max_batch}")
    return [_input(item, task, f"texts[{i}]") for i, item in enumerate(texts)]


def _input(item: object, task: Task, where: str) -> Text:
    try:
        return task.parse(item)
    except DataError as error:
        raise _RefusedError(422, f"{where} {error}") from error


def serve(
    path: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Serves a bundle until interrupted; port 0 takes a free one. The address is printed on stderr."""
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    model = load(path, threads=threads, options=options)
    app = create_app(model)
    with _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        name, bound = model.manifest.name, listener.getsockname()[1]
        print(f"attar: serving {name} at http://{shown}:{bound}", file=sys.stderr, flush=True)
        # No access log: a query string sent by mistake could hold a text.
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket; uvicorn would log its failure and exit instead of saying it."""
    if not 0 <= port < 1 << 16:
        raise SettingsError(f"port must be 0 to 65535, not {port}")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error}; choose another --host or --port") from error
