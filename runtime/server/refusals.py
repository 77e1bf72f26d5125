"""Errors as HTTP says them: every failure of a request becomes one status, one reason and one message."""

from __future__ import annotations

import math

from attar.runtime.errors import ClosedError, DataError, DeadlineError, OverloadedError


class RefusedError(Exception):
    """A request that gets an error as its answer; `reason` is what metrics count it under."""

    def __init__(self, status: int, message: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason
        self.headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}


def refusal(error: Exception) -> RefusedError:
    """What a failure means to the client. An unforeseen one is 500 and keeps its message, which could quote a text."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, OverloadedError):
        return RefusedError(429, str(error), "full", error.retry_after)
    if isinstance(error, DeadlineError):
        return RefusedError(504, str(error), "deadline")
    if isinstance(error, ClosedError):
        return RefusedError(503, "the server is about to stop", "draining", 1.0)
    if isinstance(error, DataError):
        return RefusedError(422, str(error), "bad input")
    return RefusedError(500, "internal error", "failed")
