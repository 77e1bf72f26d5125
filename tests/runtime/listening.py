"""A server of an application on a socket, in a thread of this process, so that tests may change its limits."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from attar.runtime.server.connections import Bounded
from attar.runtime.server.setup import listen

Address = tuple[str, int]


def protocols() -> dict[str, Any]:
    """Those of uvicorn that are installed, within our limits."""
    found: dict[str, Any] = {"h11": type("H11", (Bounded, H11Protocol), {})}
    with contextlib.suppress(ImportError):
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        found["httptools"] = type("HttpTools", (Bounded, HttpToolsProtocol), {})
    return found


@contextlib.contextmanager
def listening(app: Any, protocol: Any) -> Iterator[Address]:
    """The address of a server with this protocol."""
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            app, http=protocol, ws="none", log_config=None, access_log=False, proxy_headers=False, timeout_keep_alive=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(20)


def connect(address: Address, data: bytes = b"") -> socket.socket:
    """A connection over which some bytes were sent."""
    found = socket.create_connection(address, timeout=20)
    with contextlib.suppress(OSError):  # the server may close before it has read all
        found.sendall(data)
    return found


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a connection that it leaves open is a TimeoutError."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass  # closed with bytes of ours unread
    connection.close()
    return b"".join(parts)


def exchange(address: Address, data: bytes) -> bytes:
    """What comes back for some bytes."""
    return rest(connect(address, data))
