"""The processes around the application: their socket, signals and logs. Listen first, load, and drain last.

With several workers the first process loads, then forks; see workers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from attar.runtime.cpu import usable_cores
from attar.runtime.errors import SettingsError
from attar.runtime.model import load
from attar.runtime.server import Settings
from attar.runtime.server.app import application
from attar.runtime.server.connections import Connection, raise_limit
from attar.runtime.server.metrics import Meter, exposition
from attar.runtime.server.models import Models, Served, find_bundles
from attar.runtime.server.setup import check_tls, listen, log_to_stderr
from attar.runtime.server.shelf import Opened, Shelf, Watch, report
from attar.runtime.server.workers import Place, Supervisor, keep

DRAIN_LIMIT = 30.0
"""Seconds that admitted requests have to be answered after SIGTERM."""
LAST_CALLS = 2.0
"""Seconds, at most, in which calls of gRPC that are on their way are refused: closing its port would cancel them."""
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
    check_tls(settings)
    bundles = find_bundles(path)
    if options and None not in bundles:
        raise SettingsError("options of the task are for a single bundle; serve this one alone")
    settings = replace(settings, warm_up=settings.warm_up / len(bundles))
    log_to_stderr(settings.log_requests)
    raise_limit()
    with listen(host, port) as listener:
        shown, bound = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        secure = "s" if settings.ssl_certfile else ""

        def announce(names: list[str], grpc_port: int | None = None) -> None:
            address = f"http{secure}://{shown}:{bound}"
            if grpc_port is not None:
                address += f" and grpc{secure}://{shown}:{grpc_port}"
            print(f"attar: serving {', '.join(names)} at {address}", file=sys.stderr, flush=True)

        if settings.workers > 1:
            _run_workers(path, listener, threads, options, settings, announce)
            return
        models = Models(Meter(), settings.limits)
        server = _Server(models, shelf(path, models, threads, options, settings), settings, announce, host=host)
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
        held = shelf(path, models, threads, options, settings)
        held.adopt(kept, lambda name, model: models.prepare(name, model(), settings.warm_up))
        kept.opened.clear()  # this process's copy, which would keep models beyond their last request
        models.put(*held.opened.values())
        models.state = "ready"
        server = _Server(models, held, settings, announce, place)
        with _at_hangup(server.handle_hangup):
            server.run(sockets=[listener])

    kept = Shelf(path, keep(threads, options, settings.engine))
    kept.load()
    Supervisor(kept, listener, settings, work).run(announce)


def shelf(
    path: Path, models: Models, threads: int | None, options: Mapping[str, Any], settings: Settings
) -> Shelf[Served]:
    def open_(name: str | None, bundle: Path) -> Opened[Served]:
        model = load(bundle, threads=threads, options=options, **asdict(settings.engine))
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
        announce: Callable[..., None],
        place: Place | None = None,
        host: str = "",
    ) -> None:
        # No access log: a query string sent by mistake could hold a text.
        config = uvicorn.Config(
            application(models, settings.api_key),
            log_config=None,
            access_log=False,
            server_header=False,
            http=Connection,
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=SLOW_READERS,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        )
        super().__init__(config)
        self.models, self.shelf, self.settings, self.place = models, shelf, settings, place
        self.failure: Exception | None = None
        self._announce, self._host = announce, host
        self._grpc: Any = None
        self._grpc_port: int | None = None
        self._changing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        if self.settings.grpc_port is not None:
            from attar.runtime.server.grpc_server import listen as listen_grpc  # needs packages that HTTP does not

            try:
                self._grpc, self._grpc_port = await listen_grpc(
                    self.models, self._host, self.settings.grpc_port, self.settings
                )
            except SettingsError as error:
                self.failure, self.should_exit = error, True
                return
        await super().startup(sockets)
        if self.place is None:
            self._start(self._load())
        else:
            self._loop.add_reader(self.place.lifeline, self._orphaned)
            self._start(self._publish(self.place))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.place.signals)  # there is somebody to handle them now

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._grpc is not None:  # before the application closes the models
            await self._last_calls()
            await self._grpc.stop(None if self.force_exit else SLOW_READERS)
        await super().shutdown(sockets)

    async def _last_calls(self) -> None:
        """Until nothing has come for a while; counted in turns of the loop, for a busy machine may let none happen."""
        end, quiet = time.monotonic() + LAST_CALLS, 0
        while quiet < 10 and time.monotonic() < end and not self.force_exit:
            before = self.models.finished
            await asyncio.sleep(0.01)
            quiet = quiet + 1 if self.models.finished == before else 0

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
                # Not before: whoever reads it may ask at once.
                self._announce(list(self.models.served), self._grpc_port)
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
