"""Bundles over HTTP: a plain JSON API, the Open Inference Protocol, OpenAI's embeddings; bounded, and hard to kill.

Over gRPC too: the Open Inference Protocol.

attar serve BUNDLE        or a folder of bundles, each by its folder's name
GET /                     a page to try them; GET /openapi.json describes every route
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.runtime.engines.starting import Choice
from attar.runtime.errors import MissingExtraError, SettingsError
from attar.runtime.model import Model
from attar.runtime.waiting import Limits

if TYPE_CHECKING:
    from starlette.applications import Starlette


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        api_key: what clients must bring as `Authorization: Bearer KEY`; None: nothing.
        ssl_certfile: a certificate chain in PEM; with it and its key the server speaks TLS.
        ssl_keyfile: the private key, where the certificate's file does not hold it.
        grpc_port: a second port, for gRPC; 0 takes a free one, None: none.
        limits: when a batch and when the queue of a model is full.
        warm_up: seconds to compute typical shapes before the first request, of all models together.
        drain_seconds: seconds to go on refusing requests after SIGTERM, so that load balancers notice.
        engine: the engine of all models, where it runs and in which precision.
        log_requests: whether each request is logged: route, code and seconds, never a text.
        workers: processes that share the socket; `limits` holds for each.
        watch: seconds between two looks for bundles that changed; 0: only when SIGHUP says so.

    Raises:
        SettingsError: an empty key, a key file without a certificate, no port, no worker, a negative number of seconds,
            or gRPC with several workers.
    """

    api_key: str | None = field(default=None, repr=False)
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    grpc_port: int | None = None
    limits: Limits = field(default_factory=Limits)
    warm_up: float = 0.1
    drain_seconds: float = 0.0
    engine: Choice = field(default_factory=Choice)
    log_requests: bool = False
    workers: int = 1
    watch: float = 0.0

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable() and self.api_key):
            raise SettingsError("the API key must be printable ASCII, and not empty")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise SettingsError("a TLS key needs its certificate: give --ssl-certfile too")
        if self.grpc_port is not None and not 0 <= self.grpc_port < 1 << 16:
            raise SettingsError(f"the port for gRPC must be 0 to 65535, not {self.grpc_port}")
        if self.grpc_port is not None and self.workers != 1:
            raise SettingsError("gRPC is served by one process: leave out --workers, or --grpc-port")
        if type(self.workers) is not int or self.workers < 1:
            raise SettingsError(f"workers must be a whole number of at least 1, not {self.workers!r}")
        if self.workers > 1 and not hasattr(os, "fork"):
            raise SettingsError("this system cannot fork, which several workers need: leave out --workers")
        for name in ("warm_up", "drain_seconds", "watch"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be at least 0 seconds, not {getattr(self, name)!r}")


def create_app(models: Model | Mapping[str, Model], settings: Settings | None = None) -> Starlette:
    """The ASGI application around loaded models; a single one has the name of its bundle."""
    _need("starlette")
    from attar.runtime.server.app import application
    from attar.runtime.server.metrics import Meter
    from attar.runtime.server.models import Models

    settings = settings or Settings()
    found = Models(Meter(), settings.limits)
    for name, model in (models if isinstance(models, Mapping) else {models.manifest.name: models}).items():
        found.add(name, model)
    found.state = "ready"
    return application(found, settings.api_key)


def serve(
    path: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
) -> None:
    """Serves a bundle, or a folder of bundles, until interrupted or terminated; port 0 takes a free one.

    The address is printed on stderr when the models are ready; logs follow there, one JSON object a line. SIGHUP loads
    what changed in the folder. `threads` are those of each worker, by default its share of the usable cores.
    """
    _need("starlette")
    _need("uvicorn")
    settings = settings or Settings()
    if settings.grpc_port is not None:
        _need("grpc")
        _need("google.protobuf")
    from attar.runtime.server.run import run

    run(Path(path), host, port, threads, options or {}, settings)


def _need(package: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, "serve") from error
