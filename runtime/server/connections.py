"""Limits that uvicorn leaves open: how long a connection may be silent, how large its headers, how many there are.

While a request is at work the application's own limits hold. At any other time, before a request's headers are
complete, while the rest of a refused body arrives, or while an answer is not read, a client has `SILENT_SECONDS`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

SILENT_SECONDS = 20.0
"""Seconds without a request, or without reading an answer; it is looked every so many, so the most is twice that."""
MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
MAX_HEADERS = 128
"""Headers of a request, with the trailers behind its body."""
MAX_REST = 16 << 20
"""Bytes of a body as it is sent, in chunks of any size, and of what is still read of one that was refused."""
MAX_CONNECTIONS = 4096
"""Connections at a time, fewer where the process may not open as many files."""
OTHER_FILES = 128
"""Files that the process keeps for itself."""

if TYPE_CHECKING:  # uvicorn's other protocol has what is used of it here, too
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Protocol
else:
    _Protocol = object


class Bounded(_Protocol):
    """Over one of uvicorn's protocols: a connection beyond these limits is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._bytes, self._since, self._stuck = 0, self.loop.time(), False
        self._cycles: deque[Any] = deque()
        self._watch = self.loop.call_later(SILENT_SECONDS, self._look)
        if len(self.connections) > limit():
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\r\n")
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        self._leave()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._leave()

    def _leave(self) -> None:
        """Tells all requests at work that nobody reads what they answer."""
        for cycle in (*self._cycles, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        self._bytes += len(data)
        super().data_received(data)
        if self.cycle is not before or self.transport.is_closing():
            self._bytes = 0
        elif self._bytes > (MAX_REST if self._at_work() or (before and before.more_body) else MAX_HEAD):
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of httptools, which bounds nothing; h11 bounds the bytes of headers and trailers by itself."""
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Of httptools, which tells the last of several pipelined requests alone that the client has left."""
        super().on_headers_complete()
        while self._cycles and self._cycles[0].response_complete:
            self._cycles.popleft()
        self._cycles.append(self.cycle)

    def on_response_complete(self) -> None:
        self._bytes, self._since = 0, self.loop.time()
        super().on_response_complete()

    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _look(self) -> None:
        """Ends the connection if it was silent all the time, or did not read since the last look."""
        stuck = self.flow.write_paused
        late = not self._at_work() and self.loop.time() - self._since >= SILENT_SECONDS
        if late or (stuck and self._stuck):
            self.transport.abort()
            return
        self._stuck = stuck
        self._watch = self.loop.call_later(SILENT_SECONDS, self._look)


class Connection(Bounded, AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Over the faster one that is installed."""


def limit() -> int:
    """How many connections there may be."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    import resource

    return max(1, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES))


def raise_limit() -> None:
    """Lets the process open as many files as its connections may need, where the system allows it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + OTHER_FILES
    wanted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
