"""What tests of the server share: requests to an application without a socket, and a server in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from attar.runtime.model import Model

KINDS = ("pairs", "multi-label", "regression", "token-classification", "question-answering", "embeddings", "multi-task")
TEXT, PAIR = "The film was charming and dull", ("What was it?", "The film was charming")


def example(models: Mapping[str, Model], kind: str) -> Any:
    """An input of the model of a kind."""
    return PAIR if models[kind].task.pairs else TEXT


def ask(app: Any, method: str, path: str, **arguments: Any) -> httpx.Response:
    """One request to an application."""

    async def once() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.request(method, path, **arguments)

    return asyncio.run(once())


def start(*arguments: object) -> tuple[Any, ...]:
    """`attar serve` on a free port of the loopback interface, and its address; with `--grpc-port 0` that one too."""
    command = [sys.executable, "-m", "attar", "serve", *map(str, arguments), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    addresses = re.findall(r"\w+://\S+", process.stderr.readline())
    if not addresses:
        process.kill()
        raise AssertionError(process.stderr.read())
    return process, *addresses


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[tuple[Any, ...]]:
    """`start`, stopped by SIGTERM in the end; it must leave by itself with 0 and say no word of a text."""
    process, *addresses = start(*arguments)
    try:
        yield process, *addresses
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        code = process.wait(timeout=20)
        process.stderr.close()
    assert code == 0, rest
    assert "film" not in rest


class Held:
    """An engine that waits until it is opened; `entered` tells that it does. Tokens of `broken` texts fail."""

    name, at_once = "held", 1

    def __init__(self, model: Model, broken: str = "awful") -> None:
        self.inner = model.engine
        self.poison = model.tokenizer.encode([broken]).ids[0][1]
        self.opened, self.entered = threading.Event(), threading.Event()

    def run(self, ids: Any, mask: Any, types: Any = None) -> Mapping[str, Any]:
        self.entered.set()
        assert self.opened.wait(20)
        if (ids == self.poison).any():
            raise RuntimeError("secret text")
        return self.inner.run(ids, mask, types)


def holding(model: Model) -> tuple[Model, Held]:
    """The model with such an engine."""
    own = Model.__new__(Model)
    own.__dict__.update(model.__dict__)
    engine = own.engine = Held(model)
    return own, engine
