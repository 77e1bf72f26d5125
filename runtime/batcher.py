"""One model shared between threads and coroutines: requests wait in a bounded line and are answered in batches.

    with Batcher(attar.load(path)) as batcher:
        batcher("a text")                        # from any thread
        await batcher.aanswer(["a", "b"])        # from any coroutine, whose loop goes on meanwhile
        batcher.submit(["a", "b"], timeout=0.5)  # a concurrent.futures.Future

A request is one text or several. Answers never depend on what else was in the batch (README, promise 2).
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self

from attar.runtime.errors import ClosedError, DataError, OverloadedError, SettingsError
from attar.runtime.model import Model
from attar.runtime.tokenizer import Text
from attar.runtime.waiting import Answered, Limits, Line, Request, expire, late

__all__ = ["Answered", "Batcher", "Limits"]


class Batcher:
    """Batches by tokens and by time for one model; close it when done, or use it as a context manager.

    `observe` is called with (name, value) from the worker threads: `queue_seconds` once a request, `tokenize_seconds`,
    `infer_seconds`, `batch_texts` and `batch_tokens` once a batch.
    """

    def __init__(
        self, model: Model, limits: Limits | None = None, observe: Callable[[str, float], None] | None = None
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self._observe = observe or (lambda name, value: None)
        windowed = any(head.reads == "tokens" for head in model.task.heads)
        self._line = Line(self.limits, math.inf if windowed else model.task.max_length)
        self._changed = threading.Condition()  # guards the line
        self._closed = False
        self._process = os.getpid()
        self._threads = [
            threading.Thread(target=self._work, name=f"attar-{i}", daemon=True) for i in range(self.limits.at_once)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self, texts: Any, timeout: float | None = None) -> Any:
        """What `model(texts)` gives, waiting for it; see `submit` for the errors."""
        items, single = self.model.inputs(texts)
        future = self.submit(items, timeout)
        try:
            found = future.result(timeout).answers
        except TimeoutError as error:
            raise late(timeout) from error
        finally:
            future.cancel()  # nobody waits any more; without effect once it is computed
        return found[0] if single else found

    async def aanswer(self, texts: Any, timeout: float | None = None) -> Any:
        """What `model(texts)` gives, while the loop goes on; a call that is cancelled in time is not computed."""
        items, single = self.model.inputs(texts)
        found = (await self.answered(items, timeout)).answers
        return found[0] if single else found

    async def answered(
        self,
        texts: Sequence[Text],
        timeout: float | None = None,
        watch: Callable[[asyncio.Future[Answered]], None] | None = None,
    ) -> Answered:
        """As `submit`, for coroutines; `watch` gets the future, and may cancel it where nobody waits any more."""
        future = asyncio.wrap_future(self.submit(texts, timeout))
        if watch is not None:
            watch(future)
        if timeout is None:
            return await future
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError as error:
            raise late(timeout) from error

    def submit(self, texts: Sequence[Text], timeout: float | None = None) -> Future[Answered]:
        """Queues inputs in the task's form. A request that waits longer than `timeout` seconds is never computed.

        Raises:
            OverloadedError: the line is full.
            DeadlineError: the timeout is not above 0; it is the future's error where time runs out later.
            ClosedError: the batcher was closed, or this process was forked from the one that made it.
        """
        if os.getpid() != self._process:  # before any lock, which another thread may have held at the fork
            raise ClosedError(
                "this batcher belongs to the process that this one was forked from, and its threads stayed there; "
                "load the model and make a batcher in each process"
            )
        if timeout is not None and not timeout > 0:
            raise late(timeout) if timeout <= 0 else SettingsError("timeout must be seconds, not NaN")
        stale: list[Request] = []
        try:
            with self._changed:
                if self._closed:
                    raise ClosedError("the batcher is closed; make a new one")
                request = self._line.request(texts, timeout)
                if self._line.full(request):
                    stale = self._line.remove_stale()
                if (reason := self._line.full(request)) is not None:
                    raise OverloadedError(f"{reason}; try again later", self._line.expected_wait)
                if texts and self._line.add(request):
                    self._changed.notify()
        finally:
            expire(stale)  # without the lock: what waits for them may call us
        if not texts:
            request.future.set_result(Answered([], 0))
        return request.future

    @property
    def waiting_requests(self) -> int:
        """Requests that wait."""
        return len(self._line.requests)

    @property
    def waiting_tokens(self) -> float:
        """Tokens that wait, as estimated."""
        return self._line.tokens

    def warm_up(self, seconds: float) -> int:
        """`Model.warm_up` with the line's batches, whose speed it learns."""

        def learn(tokens: int, spent: float) -> None:
            with self._changed:
                self._line.learn_speed(tokens, spent)

        return self.model.warm_up(seconds, batch_tokens=self.limits.batch_tokens, observe=learn)

    def learn_from(self, other: Batcher) -> None:
        """Expects the speed of another one, whose place it takes: one slow batch at first would refuse its requests."""
        with self._changed:
            self._line.learn_from(other._line)

    def close(self, drain: bool = True) -> None:
        """Takes no more requests. Those that wait are answered first, or fail with `ClosedError`."""
        if os.getpid() != self._process:
            return
        with self._changed:
            self._closed = True
            dropped = [] if drain else self._line.clear()
            self._changed.notify_all()
        for request in dropped:
            request.fail(ClosedError("the batcher was closed before this request was computed"))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while (found := self._take()) is not None:
            batch, stale = found
            expire(stale)
            self._serve(batch)
            del found, batch, stale  # else they would be kept until the next request

    def _take(self) -> tuple[list[Request], list[Request]] | None:
        """The next batch, and the requests whose time is over; None: there will be no more."""
        with self._changed:
            while True:
                if self._line.requests:
                    wait = 0.0 if self._closed else self._line.linger()
                    if wait <= 0:
                        return self._stale_then_batch()
                    self._changed.wait(wait)
                elif self._closed:
                    return None
                else:
                    self._changed.wait()

    def _stale_then_batch(self) -> tuple[list[Request], list[Request]]:
        stale = self._line.remove_stale()
        return self._line.take(), stale

    def _serve(self, batch: list[Request]) -> None:
        start = time.monotonic()
        ready = [r for r in batch if r.future.set_running_or_notify_cancel()]
        for request in ready:
            self._observe("queue_seconds", start - request.arrived)
        tokens = self._answer(ready)
        with self._changed:
            self._line.done(batch, tokens, time.monotonic() - start)

    def _answer(self, requests: Sequence[Request]) -> int:
        """Answers requests together, or one by one where that fails: a poisoned one fails alone. Returns the tokens."""
        if not requests:
            return 0
        try:
            answers, tokens = self._compute([text for request in requests for text in request.texts])
        except Exception as error:
            if len(requests) == 1:
                requests[0].future.set_exception(error)
                return 0
            return sum(self._answer([request]) for request in requests)
        start = 0
        for request in requests:
            end = start + len(request.texts)
            request.future.set_result(Answered(answers[start:end], sum(tokens[start:end])))
            start = end
        return sum(tokens)

    def _compute(self, texts: Sequence[Text]) -> tuple[list[Any], list[int]]:
        """Answers and tokens of each text."""
        model = self.model
        start = time.perf_counter()
        encoded = model.task.encode(model.tokenizer, texts)
        tokenized = time.perf_counter()
        answers = model.task.answers(
            encoded, model.outputs(encoded, max(1, model.engine.at_once // self.limits.at_once))
        )
        done = time.perf_counter()
        if len(answers) != len(texts):
            raise DataError(f"the model gave {len(answers)} answers for {len(texts)} texts; export the bundle again")
        tokens = [0] * len(texts)
        for row, owner in zip(encoded.ids, encoded.owners, strict=True):
            tokens[owner] += len(row)
        self._observe("tokenize_seconds", tokenized - start)
        self._observe("infer_seconds", done - tokenized)
        self._observe("batch_texts", len(texts))
        self._observe("batch_tokens", sum(tokens))
        return answers, tokens
