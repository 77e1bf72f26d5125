"""The port of gRPC, on the event loop and before the models of the HTTP server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from attar.runtime.errors import SettingsError
from attar.runtime.server import Settings
from attar.runtime.server.exchange import MAX_BODY
from attar.runtime.server.grpc_api import handlers
from attar.runtime.server.models import Models

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.so_reuseport", 0),  # else another server could take the same port, and with it half of the requests
    ("grpc.compression_enabled_algorithms_bitset", 1),  # none: little data can unpack to much
)


async def listen(models: Models, host: str, port: int, settings: Settings) -> tuple[Any, int]:
    """A server that is started, and the port that it has; port 0 takes a free one."""
    server = grpc.aio.server(handlers=handlers(models, settings.api_key), options=OPTIONS)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.ssl_certfile is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, _credentials(settings.ssl_certfile, settings.ssl_keyfile))
    except RuntimeError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port} for gRPC; choose another --host or --grpc-port"
        ) from error
    await server.start()
    return server, bound


def _credentials(certificate: str, key: str | None) -> Any:
    """TLS by the files of the HTTP server, which has checked them."""
    chain = Path(certificate).read_bytes()
    return grpc.ssl_server_credentials([(chain if key is None else Path(key).read_bytes(), chain)])
