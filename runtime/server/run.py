"""The processes around the application: their socket, signals and logs. Listen first, load, and drain last.

With several workers the first process loads, then forks; see workers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from attar.runtime.cpu import usable_cores
from attar.runtime.errors import SettingsError
from attar.runtime.model import load
from attar.runtime.server import Settings
from attar.runtime.server.app import application
from attar.runtime.server.metrics import Meter, exposition
from attar.runtime.server.models import Models, Served, find_bundles
from attar.runtime.server.shelf import Opened, Shelf, Watch, report
from attar.runtime.server.workers import Place, Supervisor, keep

DRAIN_LIMIT = 30.0
"""Seconds that admitted requests have to be answered after SIGTERM."""
SLOW_READERS = 5
"""Seconds that clients then have to read their answers."""
PUBLISH = 0.5
"""Seconds between two times that a worker tells the others its metrics."""

log = logging.getLogger("attar.server")


def run(
    path: Path,
    host: str,
    port: int,
    threads: int | None,
    options: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Serves the bundles at `path` until a signal; raises what kept them from being loaded."""
    _check_tls(settings)
    bundles = find_bundles(path)
    if options and None not in bundles:
        raise SettingsError("options of the task are for a single bundle; serve this one alone")
    settings = replace(settings, warm_up=settings.warm_up / len(bundles))
    _log_to_stderr(settings.log_requests)
    with listen(host, port) as listener:
        shown, bound = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        scheme = "https" if settings.ssl_certfile else "http"

        def announce(names: list[str]) -> None:
            address = f"{scheme}://{shown}:{bound}"
            print(f"attar: serving {', '.join(names)} at {address}", file=sys.stderr, flush=True)

        if settings.workers > 1:
            _run_workers(path, listener, threads, options, settings, announce)
            return
        models = Models(Meter(), settings.limits)
        server = _Server(models, _shelf(path, models, threads, options, settings), settings, announce)
        with _at_hangup(server.handle_hangup):
            server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


def _run_workers(
    path: Path,
    listener: socket.socket,
    threads: int | None,
    options: Mapping[str, Any],
    settings: Settings,
    announce: Callable[[list[str]], None],
) -> None:
    """Loads the bundles, then forks; each worker has its share of the cores."""
    cores = max(1, usable_cores() // settings.workers)
    threads = cores if threads is None else threads
    if threads < 1:
        raise SettingsError(f"threads must be at least 1, not {threads}")
    limits = replace(settings.limits, at_once=min(settings.limits.at_once, cores))

    def work(place: Place) -> None:
        models = Models(Meter((("worker", str(place.index)),)), limits)
        models.metrics = lambda: exposition([models.meter.snapshot(), *place.others()])
        shelf = _shelf(path, models, threads, options, settings)
        shelf.adopt(kept, lambda name, model: models.prepare(name, model(), settings.warm_up))
        kept.opened.clear()  # this process's copy, which would keep models beyond their last request
        models.put(*shelf.opened.values())
        models.state = "ready"
        server = _Server(models, shelf, settings, announce, place)
        with _at_hangup(server.handle_hangup):
            server.run(sockets=[listener])

    kept = Shelf(path, keep(threads, options))
    kept.load()
    Supervisor(kept, listener, settings, work).run(announce)


def _shelf(
    path: Path, models: Models, threads: int | None, options: Mapping[str, Any], settings: Settings
) -> Shelf[Served]:
    def open_(name: str | None, bundle: Path) -> Opened[Served]:
        model = load(bundle, threads=threads, options=options)
        name = name or model.manifest.name
        return Opened(name, model.task, lambda: models.prepare(name, model, settings.warm_up))

    return Shelf(path, open_)


class _Server(uvicorn.Server):
    """Loads models once it listens; at a signal it drains before uvicorn stops. A second signal stops at once.

    With a `place` it is a worker: its models are loaded, and its supervisor alone decides that it stops at once.
    """

    def __init__(
        self,
        models: Models,
        shelf: Shelf[Served],
        settings: Settings,
        announce: Callable[[list[str]], None],
        place: Place | None = None,
    ) -> None:
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
        super().__init__(config)
        self.models, self.shelf, self.settings, self.place = models, shelf, settings, place
        self.failure: Exception | None = None
        self._announce = announce
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.place is None:
            self._start(self._load())
        else:
            self._loop.add_reader(self.place.lifeline, self._orphaned)
            self._start(self._publish(self.place))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.place.signals)  # there is somebody to handle them now

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it beside the requests."""
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(self._loop.create_task(work))

    async def _load(self) -> None:
        async with self._changing:
            try:
                await asyncio.to_thread(self.shelf.load)
            except Exception as error:
                self.failure = error
                self.should_exit = True
                return
            self.models.put(*self.shelf.opened.values())
            if self.models.state == "loading":  # or a signal came first
                self.models.state = "ready"
            self._announce(list(self.models.served))
        if self.settings.watch:
            self._start(self._watch())

    async def _watch(self) -> None:
        watch = Watch(self.shelf)
        while True:
            await asyncio.sleep(self.settings.watch)
            if await asyncio.to_thread(watch.due):
                await self._reload()

    async def _reload(self) -> None:
        """Swaps models between two steps of the event loop, so that each request has one of them from first to last."""
        async with self._changing:
            if self.models.state == "draining":
                return
            changes = await asyncio.to_thread(self.shelf.refresh)
            self.models.put(*changes.opened.values())
            for name in changes.removed:
                self.models.remove(name)
            report(changes, self.models.meter)

    async def _publish(self, place: Place) -> None:
        while True:
            place.publish(self.models.meter.snapshot())
            await asyncio.sleep(PUBLISH)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        if self.started:  # else what lies there is about to be loaded
            self._loop.call_soon_threadsafe(lambda: self._start(self._reload()))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.place is not None and (sig == signal.SIGINT or self.models.state == "draining"):
            return  # a terminal's Ctrl-C reaches all processes, and so may SIGTERM, beside the supervisor's own
        if self.models.state == "draining" or not self.started:
            self.should_exit = self.force_exit = True
            return
        self.models.state = "draining"
        self._loop.call_soon_threadsafe(lambda: self._start(self._drain()))

    def _orphaned(self) -> None:
        assert self.place is not None
        self._loop.remove_reader(self.place.lifeline)
        self.handle_exit(signal.SIGTERM, None)

    async def _drain(self) -> None:
        """Until those that were admitted are answered, and load balancers had their time to notice."""
        start = time.monotonic()
        log.warning("draining", extra={"fields": {"active": self.models.active}})
        while self.models.active and time.monotonic() - start < DRAIN_LIMIT:
            await asyncio.sleep(0.01)
        await asyncio.sleep(max(0.0, start + self.settings.drain_seconds - time.monotonic()))
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


@contextlib.contextmanager
def _at_hangup(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Calls it at SIGHUP, where there is such a signal and this is the thread that gets them."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


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
