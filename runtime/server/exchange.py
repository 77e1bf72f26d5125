"""Reading requests and writing replies: bodies that are bounded in size and time, JSON that is checked, deadlines."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attar.runtime.batcher import Answered
from attar.runtime.errors import DataError
from attar.runtime.server.models import Served
from attar.runtime.server.refusals import RefusedError
from attar.runtime.server.schemas import Schema, problem
from attar.runtime.tasks.base import Task
from attar.runtime.tokenizer import Text

MAX_BODY = 2 << 20
"""Bytes of a request; a larger one is refused with 413."""
MAX_HELD = 64 << 20
"""Bytes of all requests that are being read or answered; a further one is refused with 429."""
BODY_SECONDS = 20.0
"""Seconds that a client may take to send its body; a slower one is refused with 408."""
WATCH_AFTER = 0.02
"""Seconds after which it is watched whether the client is still there."""
MANY = 32
"""From so many texts on, a reply is written outside of the event loop, which others wait for."""


async def read_body(request: Request) -> bytes:
    """The whole body, given up as soon as it is too large or too slow: a declared length is not to be trusted."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "the body is compressed; send it without a Content-Encoding", "compressed")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            parts, size = [], 0
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    words = f"the body is larger than {MAX_BODY} bytes; send the texts in several requests"
                    raise RefusedError(413, words, "too large")
                parts.append(part)
    except ClientDisconnect as error:
        raise RefusedError(400, "the client left before its request was complete", "gone") from error
    except TimeoutError as error:
        raise RefusedError(408, f"the body took longer than {BODY_SECONDS:g} s to arrive", "slow") from error
    return b"".join(parts)


def parse_json(body: bytes, schema: Schema) -> Any:
    """A body in the form that the schema tells; 400 where it is no JSON, 422 where it is another form."""
    try:
        record = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_once_each)
    except (ValueError, RecursionError) as error:
        words = "the body has a key twice" if isinstance(error, _TwiceError) else "the body is not valid JSON in UTF-8"
        raise RefusedError(400, words, "bad json") from error
    found = problem(record, schema)
    if found is not None:
        raise RefusedError(422, found, "bad input")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _TwiceError(ValueError):
    """A key that an object has twice: which one is meant is anybody's guess."""


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError
    return found


def parse_inputs(items: Sequence[object], served: Served, where: str) -> list[Text]:
    """Inputs in the task's form, no more of them than the model takes; `where` names them in messages."""
    most = served.model.manifest.limits["max_batch"]
    if len(items) > most:
        raise RefusedError(422, f"{len(items)} texts in one request; this model takes at most {most}", "bad input")
    return [parse_input(item, served.model.task, f"{where}[{i}]") for i, item in enumerate(items)]


def parse_input(item: object, task: Task, where: str) -> Text:
    """One input in the task's form. Lone surrogates pass: the tokenizer replaces them."""
    try:
        return task.parse(item)
    except DataError as error:
        raise RefusedError(422, f"{where} {error}", "bad input") from error


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """The seconds of the header X-Request-Timeout; a negative number is a deadline in the past."""
    given = headers.get("x-request-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise RefusedError(422, "the header X-Request-Timeout must be seconds, such as 0.5", "bad input")
    return seconds


async def answer(served: Served, texts: list[Text], request: Request, timeout: float | None = None) -> Answered:
    """The answers, within the time of the request's header or, where that is shorter, `timeout` seconds."""
    header = timeout_of(request.headers)
    given = [t for t in (header, timeout) if t is not None]
    try:
        return await served.batcher.answered(texts, min(given, default=None), partial(_cancel_when_gone, request))
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RefusedError(400, "the client left before its answer", "gone") from error


def _cancel_when_gone(request: Request, future: asyncio.Future[Answered]) -> None:
    """Cancels what waits for a client that has left. Most answers are there before it is worth a look."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        future.cancel()

    def begin() -> None:
        task = asyncio.create_task(watch())
        future.add_done_callback(lambda _: task.cancel())

    timer = asyncio.get_running_loop().call_later(WATCH_AFTER, begin)
    future.add_done_callback(lambda _: timer.cancel())


def as_json(content: Any) -> bytes:
    """JSON in UTF-8. Halves of emoji, which UTF-8 cannot hold, are escaped; a number that is not finite is an error."""
    try:
        written = _ENCODER.encode(content)
    except ValueError as error:
        raise RefusedError(500, "the model's answer holds a number that is not finite", "not finite") from error
    try:
        return written.encode()
    except UnicodeEncodeError:
        return json.dumps(content, separators=(",", ":")).encode()


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(as_json(content), status, headers, media_type="application/json")


class Bodies:
    """Around the application: a body has one length, and those of all requests at work together have a limit.

    A proxy that believes the other of two lengths would take a part of the body for the next client's request; so the
    connection is closed (RFC 9112, section 6.1).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.held = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            words = "the request has both Content-Length and Transfer-Encoding; send one of them"
            await reply({"error": words}, 400, {"connection": "close"})(scope, receive, send)
            return
        own = 0

        async def counted() -> Message:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            own += size
            self.held += size
            if self.held > MAX_HELD:
                raise RefusedError(429, "too many bytes of requests are being read or answered", "full", 1.0)
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self.held -= own
