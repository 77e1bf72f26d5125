"""Several processes behind one socket: forked from one that loaded the models, watched over, and replaced.

A fork shares memory until somebody writes to it. ONNX Runtime's sessions survive one as long as they have one thread;
with more of them, each worker starts its own from the bytes that the first process has verified. What a worker loads
later is its own, and the first process loads it too: who dies is replaced from there, whatever lies on the disk then.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.runtime.bundle import Bundle
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import AttarError
from attar.runtime.model import Model, start
from attar.runtime.server.metrics import Meter, Snapshot
from attar.runtime.server.models import trim
from attar.runtime.server.shelf import Opened, Shelf, Watch, report

if TYPE_CHECKING:
    from attar.runtime.server import Settings

PAUSE = 1.0
"""Seconds from a worker's start to that of the one that replaces it, at least."""
SLOT = 4 << 20
"""Bytes for the metrics of one worker; only those that are written take memory."""

log = logging.getLogger("attar.server")


class Board:
    """Where workers tell each other their metrics, in memory that all of them share."""

    _head = struct.Struct("<II")

    def __init__(self, slots: int) -> None:
        self._slots = [mmap.mmap(-1, SLOT) for _ in range(slots)]

    def write(self, index: int, snapshot: Snapshot) -> None:
        data = json.dumps(snapshot).encode()
        if len(data) > SLOT - self._head.size:
            log.error("too many metrics to share", extra={"fields": {"bytes": len(data)}})
            return
        slot = self._slots[index]
        slot[self._head.size : self._head.size + len(data)] = data
        self._head.pack_into(slot, 0, len(data), zlib.crc32(data))

    def read(self, index: int) -> Snapshot | None:
        """What was written last; None for nothing, and for what could not be read whole in many attempts."""
        for _ in range(100):
            length, check = self._head.unpack_from(self._slots[index], 0)
            if not length:
                break
            data = self._slots[index][self._head.size : self._head.size + length]
            if zlib.crc32(data) == check:
                found: Snapshot = json.loads(data)
                return found
        return None

    def clear(self, index: int) -> None:
        self._head.pack_into(self._slots[index], 0, 0, 0)

    def written(self, index: int) -> bool:
        return bool(self._head.unpack_from(self._slots[index], 0)[0])

    def __len__(self) -> int:
        return len(self._slots)


@dataclass(frozen=True)
class Place:
    """A worker's place among the others.

    `lifeline` can be read once the supervisor is gone; `signals` wait until the worker lets them come.
    """

    index: int
    board: Board
    lifeline: int
    signals: frozenset[signal.Signals]

    def publish(self, snapshot: Snapshot) -> None:
        self.board.write(self.index, snapshot)

    def others(self) -> Iterator[Snapshot]:
        for index in range(len(self.board)):
            if index != self.index and (found := self.board.read(index)) is not None:
                yield found


def keep(
    threads: int, options: Mapping[str, Any], choice: Choice
) -> Callable[[str | None, Path], Opened[Callable[[], Model]]]:
    """How a supervisor opens a bundle: it verifies all of it, and keeps what workers make their models of."""

    def open_(name: str | None, path: Path) -> Opened[Callable[[], Model]]:
        bundle = Bundle.read(path)
        model = start(bundle, choice, threads=1, options=options)
        name = name or model.manifest.name
        if threads == 1:
            return Opened(name, model.task, lambda: lambda: model)
        return Opened(name, model.task, lambda: lambda: start(bundle, choice, threads=threads, options=options))

    return open_


class Supervisor:
    """The first process: it answers nothing and starts no threads (ONNX Runtime has one, asleep), so it can fork."""

    def __init__(
        self,
        shelf: Shelf[Callable[[], Model]],
        listener: socket.socket,
        settings: Settings,
        work: Callable[[Place], None],
    ) -> None:
        self._shelf, self._listener, self._work = shelf, listener, work
        self._signals = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        self._watch, self._look_every = Watch(shelf) if settings.watch else None, settings.watch
        self._look_at = time.monotonic() + settings.watch
        self._meter = Meter((("worker", "supervisor"),))
        self._workers = range(settings.workers)
        self._board = Board(settings.workers + 1)
        self._lifeline = os.pipe()
        self._processes: dict[int, int] = {}
        self._born: dict[int, float] = {}
        self._vacant: dict[int, float] = {}
        """When each place that is free may be taken."""
        self._ready = self._stopping = self._failed = False

    def run(self, announce: Callable[[list[str]], None]) -> None:
        """Until all workers have ended after SIGTERM; `AttarError` if one ends before all are ready."""
        with _waking({*self._signals, signal.SIGCHLD}) as wait:
            for index in self._workers:
                self._fork(index)
            while self._processes or self._vacant:
                caught = wait(self._pause())
                if caught & {signal.SIGTERM, signal.SIGINT}:
                    self._stop()
                self._reap()
                if self._stopping:
                    continue
                if not self._ready and all(map(self._board.written, self._workers)):
                    self._ready = True
                    announce(list(self._shelf.opened))
                if signal.SIGHUP in caught or self._due():
                    self._reload()
                self._replace()
        if self._failed:
            raise AttarError("a worker ended before it was ready, so the server does: the log above says why")

    def _pause(self) -> float | None:
        """Seconds to wait for a signal; None: as long as it takes."""
        if self._stopping:
            return None
        if not self._ready:
            return 0.02
        times = [*self._vacant.values(), *([self._look_at] if self._watch else [])]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _due(self) -> bool:
        if self._watch is None or time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + self._look_every
        return self._watch.due()

    def _fork(self, index: int) -> None:
        # A signal that arrives in between waits for the worker's own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # numpy's threads, which know about forks
            process = os.fork()
        if process == 0:
            os._exit(self._child(index))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        self._processes[index], self._born[index] = process, time.monotonic()

    def _child(self, index: int) -> int:
        """The life of a worker; its exit status."""
        try:
            signal.set_wakeup_fd(-1)
            os.close(self._lifeline[1])
            gc.freeze()  # collections would write to what is shared
            self._work(Place(index, self._board, self._lifeline[0], self._signals))
        except BaseException as error:
            reason = str(error) if isinstance(error, AttarError) else type(error).__name__
            log.error("worker failed", extra={"fields": {"worker": index, "reason": reason}})
            return 1
        finally:
            sys.stderr.flush()
        return 0

    def _reap(self) -> None:
        """Notes who has ended. Before all were ready once, it is the end of all."""
        for index, process in list(self._processes.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended:
                continue
            del self._processes[index]
            self._board.clear(index)
            code = os.waitstatus_to_exitcode(status)
            if code or not self._stopping:
                log.error("worker ended", extra={"fields": {"worker": index, "process": process, "status": code}})
            if self._ready and not self._stopping:
                self._vacant[index] = max(time.monotonic(), self._born[index] + PAUSE)
            elif not self._stopping:
                self._failed = True
                self._stop()

    def _replace(self) -> None:
        for index, time_ in list(self._vacant.items()):
            if time_ <= time.monotonic():
                del self._vacant[index]
                self._fork(index)
                log.warning("worker replaced", extra={"fields": {"worker": index, "process": self._processes[index]}})

    def _reload(self) -> None:
        """First here, then in the workers, for what was found good."""
        changes = self._shelf.refresh()
        report(changes, self._meter)
        trim()  # of the models that nobody will start from any more
        self._board.write(len(self._workers), self._meter.snapshot())
        if changes.opened or changes.removed:
            self._tell(signal.SIGHUP)

    def _stop(self) -> None:
        """At the first signal all drain, at the second all end."""
        self._listener.close()  # workers have theirs until they have drained
        self._vacant.clear()
        self._tell(signal.SIGKILL if self._stopping else signal.SIGTERM)
        self._stopping = True

    def _tell(self, sig: signal.Signals) -> None:
        for process in self._processes.values():
            os.kill(process, sig)


@contextlib.contextmanager
def _waking(signals: set[signal.Signals]) -> Iterator[Callable[[float | None], set[int]]]:
    """What waits for one of the signals, or so many seconds, and tells which came."""
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    os.set_blocking(writes, False)
    before = {sig: signal.signal(sig, lambda *_: None) for sig in signals}
    previous = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)

    def wait(seconds: float | None) -> set[int]:
        select.select([reads], [], [], seconds)
        try:
            return set(os.read(reads, 4096))
        except BlockingIOError:
            return set()

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(previous)
        for sig, handler in before.items():
            signal.signal(sig, handler)
        os.close(reads)
        os.close(writes)
