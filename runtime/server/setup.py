"""What a server needs before it starts: its logs, its certificate, its socket."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import sys
import time
from typing import Any

from attar.runtime.errors import SettingsError
from attar.runtime.server import Settings


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


def log_to_stderr(requests: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in {
        "attar.server": logging.INFO if requests else logging.WARNING,
        "uvicorn": logging.ERROR,  # its warnings are of clients that send nonsense, one line each
        "asyncio": logging.ERROR,
    }.items():
        found = logging.getLogger(name)
        found.handlers, found.propagate = [handler], False
        found.setLevel(level)


def check_tls(settings: Settings) -> None:
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
