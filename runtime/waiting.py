"""The line of requests in front of a model: how long it may be, and who is computed together. No threads, no locks."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from attar.runtime.cpu import usable_cores
from attar.runtime.engines.profiles import BATCH_TOKENS
from attar.runtime.errors import DeadlineError, SettingsError
from attar.runtime.tokenizer import Text

PER_CHARACTER = 0.3
"""Tokens of a character, until the line has learnt what its own texts have; English words have about 0.25."""
NEWEST = 0.2
"""The share of the last batch in the running means of speed and of tokens a character."""
RETURN = 0.1
"""After a batch of several requests, the share of its time that the next one waits for their senders to come back."""


@dataclass(frozen=True)
class Limits:
    """When a batch is full, and when the line is.

    Attributes:
        batch_tokens: tokens computed together; a longer request is computed alone.
        linger: seconds that a request waits for a full batch, and only while another one is being computed.
        max_requests: requests that wait.
        max_tokens: tokens that wait, estimated from the length of the texts.
        max_wait: seconds that a further request would wait, by the speed of the last batches.
        at_once: batches at a time: one is tokenized while another is computed; more fight for the cores.

    Raises:
        SettingsError: a number out of its range.
    """

    batch_tokens: int = BATCH_TOKENS
    linger: float = 0.1
    max_requests: int = 256
    max_tokens: int = 1 << 17
    max_wait: float = 2.0
    at_once: int = field(default_factory=lambda: min(2, usable_cores()))

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_requests", "max_tokens", "at_once"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingsError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name, least in (("linger", 0.0), ("max_wait", 0.001)):
            if not least <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be seconds, at least {least:g}, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Answered:
    """The answers of one request in the order of its texts, and how many tokens these had."""

    answers: list[Any]
    tokens: int


@dataclass(eq=False)
class Request:
    """Texts, their characters, their estimated tokens and the characters of the longest; times are monotonic."""

    texts: Sequence[Text]
    characters: int
    tokens: float
    longest: int
    arrived: float
    deadline: float
    future: Future[Answered] = field(default_factory=Future)

    def fail(self, error: Exception) -> None:
        """The error as its answer, unless it was cancelled; for requests that are in no batch."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Line:
    """Requests in the order of their arrival; `most` tokens a text, or infinity where texts are read in windows."""

    def __init__(self, limits: Limits, most: float) -> None:
        self.limits = limits
        self.requests: list[Request] = []
        self.tokens = 0.0
        self.computing = 0.0  # estimated tokens of the batches that were taken and are not done
        self.busy = 0  # how many these are
        self._most = most
        self._speed = 0.0  # tokens a second of all workers together; 0: not known yet
        self._per_character = PER_CHARACTER
        self._returning = 0  # requests of the last batch, whose senders may come back until then
        self._until = 0.0

    def request(self, texts: Sequence[Text], timeout: float | None) -> Request:
        """A request that arrives now."""
        now = time.monotonic()
        lengths = [len(t) if isinstance(t, str) else len(t[0]) + len(t[1]) for t in texts]
        tokens = sum(min(self._most, 2 + n * self._per_character) for n in lengths)
        deadline = math.inf if timeout is None else now + timeout
        return Request(texts, sum(lengths), tokens, max(lengths, default=0), now, deadline)

    def add(self, request: Request) -> bool:
        """Puts a request at the end; whether a worker should look: else it would be woken by each of many."""
        self.requests.append(request)
        before, self.tokens = self.tokens, self.tokens + request.tokens
        filled = before < self.limits.batch_tokens <= self.tokens
        return filled or len(self.requests) in (1, self._returning)

    def full(self, request: Request) -> str | None:
        """Why there is no place for a request. However long it is, it has one where none waits."""
        limits = self.limits
        if len(self.requests) >= limits.max_requests:
            return f"{limits.max_requests} requests are waiting"
        if self.requests and self.tokens + request.tokens > limits.max_tokens:
            return f"{self.tokens:.0f} tokens are waiting"
        if (self.requests or self.busy) and self.expected_wait > limits.max_wait:
            return f"requests would wait longer than {limits.max_wait:g} s"
        return None

    @property
    def expected_wait(self) -> float:
        """Seconds until all that is here now will have been computed; 0 while the speed is not known."""
        return (self.tokens + self.computing) / self._speed if self._speed else 0.0

    def learn_from(self, other: Line) -> None:
        """Expects of its texts, and of how fast they are computed, what another line has learnt, if anything."""
        if other._speed:
            self._speed, self._per_character = other._speed, other._per_character

    def learn_speed(self, tokens: int, seconds: float) -> None:
        """Takes into account that all workers together did `tokens` in `seconds`."""
        found = tokens / max(seconds, 1e-9)
        self._speed = self._speed + NEWEST * (found - self._speed) if self._speed else found

    def linger(self) -> float:
        """Seconds that the next batch may wait for company; at most 0: none. A lone sender never waits."""
        if self.tokens >= self.limits.batch_tokens:
            return 0.0
        if self.busy:
            return self.requests[0].arrived + self.limits.linger - time.monotonic()
        return self._until - time.monotonic() if len(self.requests) < self._returning else 0.0

    def remove_stale(self) -> list[Request]:
        """Takes out those that nobody waits for any more."""
        now = time.monotonic()
        stale = [r for r in self.requests if r.deadline <= now or r.future.cancelled()]
        if stale:
            self._remove(stale)
        return stale

    def take(self) -> list[Request]:
        """Takes out the next batch; empty where none waits. Every batch ends with `done`.

        It is the oldest request, and with it those most alike in length: what is padded is computed in vain.
        """
        batch = self.requests
        if self.tokens > self.limits.batch_tokens:
            oldest, total, batch = self.requests[0].longest, 0.0, []
            for request in sorted(self.requests, key=lambda r: abs(r.longest - oldest)):  # stable: the older first
                total += request.tokens
                if batch and total > self.limits.batch_tokens:
                    break
                batch.append(request)
        self._remove(batch)
        self.busy += 1
        self.computing += sum(r.tokens for r in batch)
        return batch

    def done(self, batch: Sequence[Request], tokens: int, seconds: float) -> None:
        """A batch is computed; of its requests those that succeeded had so many tokens."""
        if tokens:
            self.learn_speed(tokens * self.busy, seconds)
            share = min(2.0, tokens / max(1, sum(r.characters for r in batch)))
            self._per_character += NEWEST * (share - self._per_character)
        self._returning = len(batch) if len(batch) > 1 else 0
        self._until = time.monotonic() + RETURN * seconds
        self.busy -= 1
        self.computing = self.computing - sum(r.tokens for r in batch) if self.busy else 0.0

    def clear(self) -> list[Request]:
        """Takes out all of them."""
        gone, self.requests, self.tokens = self.requests, [], 0.0
        return gone

    def _remove(self, requests: Sequence[Request]) -> None:
        gone = set(map(id, requests))
        self.requests = [r for r in self.requests if id(r) not in gone]
        self.tokens = sum(r.tokens for r in self.requests)


def expire(requests: Sequence[Request]) -> None:
    """The error of requests whose time is over."""
    for request in requests:
        request.fail(late(request.deadline - request.arrived))


def late(timeout: float | None) -> DeadlineError:
    """The error of a request that was allowed so many seconds."""
    return DeadlineError(f"not answered within {timeout:g} s; allow more time, or send fewer texts at a time")
