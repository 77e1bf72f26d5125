"""The process around the application: its socket, its signals, its logs. It listens first, loads, and drains last."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from attar.runtime.errors import SettingsError
from attar.runtime.server import Settings
from attar.runtime.server.app import application
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models, load_bundles

DRAIN_LIMIT = 30.0
"""Seconds that admitted requests have to be answered after SIGTERM."""
SLOW_READERS = 5
"""Seconds that clients then have to read their answers."""

log = logging.getLogger("attar.server")


def run(
    bundles: Mapping[str | None, Path],
    host: str,
    port: int,
    threads: int | None,
    options: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Serves bundles until a signal; raises what kept them from being loaded."""
    _check_tls(settings)
    _log_to_stderr(settings.log_requests)
    models = Models(Meter(), settings.limits)
    with listen(host, port) as listener:
        # No access log: a query string sent by mistake could hold a text.
        config = uvicorn.Config(
            application(models, settings.api_key),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SLOW_READERS,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
        server = _Server(config, models, settings.drain_seconds)
        shown, bound = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        scheme = "https" if settings.ssl_certfile else "http"

        def load() -> None:
            load_bundles(models, bundles, threads, options, settings.warm_up, settings.engine)
            names = ", ".join(models.served)
            print(f"attar: serving {names} at {scheme}://{shown}:{bound}", file=sys.stderr, flush=True)

        server.work = load
        server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """Loads models once it listens; at a signal it drains before uvicorn stops. A second signal stops at once."""

    def __init__(self, config: uvicorn.Config, models: Models, drain_seconds: float) -> None:
        super().__init__(config)
        self.models, self.drain_seconds = models, drain_seconds
        self.work = lambda: None
        self.failure: Exception | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._tasks.append(asyncio.create_task(self._load()))

    async def _load(self) -> None:
        try:
            await asyncio.to_thread(self.work)
        except Exception as error:
            self.failure = error
            self.should_exit = True
            return
        if self.models.state == "loading":  # or a signal came first
            self.models.state = "ready"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.models.state == "draining" or not self.started:
            self.should_exit = self.force_exit = True
            return
        self.models.state = "draining"
        self._loop.call_soon_threadsafe(lambda: self._tasks.append(asyncio.create_task(self._drain())))

    async def _drain(self) -> None:
        """Until those that were admitted are answered, and load balancers had their time to notice."""
        start = time.monotonic()
        log.warning("draining", extra={"fields": {"active": self.models.active}})
        while self.models.active and time.monotonic() - start < DRAIN_LIMIT:
            await asyncio.sleep(0.01)
        await asyncio.sleep(max(0.0, start + self.drain_seconds - time.monotonic()))
        fields = {
            "seconds": round(time.monotonic() - start, 3),
            "unanswered": self.models.active,
            "admitted": self.models.admitted,
        }
        log.warning("drained", extra={"fields": fields})
        self.should_exit = True


class _Lines(logging.Formatter):
    """One JSON object a record. A traceback, which could quote a text, is left at the name of its error."""

    def format(self, record: logging.LogRecord) -> str:
        found: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            found["error"] = record.exc_info[0].__name__
        return json.dumps(found | getattr(record, "fields", {}))


def _log_to_stderr(requests: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in {
        "attar.server": logging.INFO if requests else logging.WARNING,
        "uvicorn": logging.WARNING,
    }.items():
        found = logging.getLogger(name)
        found.handlers, found.propagate = [handler], False
        found.setLevel(level)


def _check_tls(settings: Settings) -> None:
    """uvicorn would fail with a traceback that names no file."""
    if settings.ssl_certfile is None:
        return
    for path in filter(None, (settings.ssl_certfile, settings.ssl_keyfile)):
        if not os.path.isfile(path):
            raise SettingsError(f"there is no file {path}; give a certificate and its key in PEM")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"{settings.ssl_certfile} and its key cannot be used for TLS: {error}; give both in PEM, of one pair"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; uvicorn would log its failure and exit instead of saying it."""
    if not 0 <= port < 1 << 16:
        raise SettingsError(f"port must be 0 to 65535, not {port}")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host} port {port}: {error}; choose another --host or --port") from error
