"""What every request passes, over HTTP and gRPC alike: key and state before the work, metrics and logs after it."""

from __future__ import annotations

import hmac
import logging
import time

from attar.runtime.server.models import Models
from attar.runtime.server.refusals import RefusedError, refusal

log = logging.getLogger("attar.server")


def check_key(key: str | None, given: str) -> None:
    """Refuses a request whose authorization is not the key, where one is wanted."""
    if key is not None and not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
        raise RefusedError(401, "this server wants its API key: Authorization: Bearer KEY", "unauthorised")


def check_state(models: Models) -> None:
    """Refuses a request while models load or the server drains."""
    if models.state != "ready":
        words = "the models are being loaded" if models.state == "loading" else "the server is about to stop"
        raise RefusedError(503, f"{words}; try again later", models.state, 1.0)


def refused(models: Models, route: str, error: Exception) -> RefusedError:
    """What the client is told of a failure, which is counted."""
    found = refusal(error)
    if found.status == 500:  # message and traceback could quote the text: neither is logged nor sent
        log.error("failed", extra={"fields": {"route": route, "error": type(error).__name__}})
    models.meter.count("rejections_total", reason=found.reason)
    return found


def finished(models: Models, route: str, code: int | str, start: float) -> None:
    """Counts a request that began at `start` of `time.perf_counter`, and logs it where that is asked for."""
    models.finished += 1
    seconds = time.perf_counter() - start
    models.meter.count("requests_total", route=route, code=str(code))
    models.meter.observe("request_seconds", seconds, (("route", route),))
    if log.isEnabledFor(logging.INFO):
        log.info("request", extra={"fields": {"route": route, "code": code, "seconds": round(seconds, 6)}})
