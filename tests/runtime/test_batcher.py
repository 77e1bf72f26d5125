"""The batcher: answers that are the model's own whoever shares a batch, and a line that is bounded in every way."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.export.bundle import write
from attar.runtime.batcher import Batcher, Limits
from attar.runtime.errors import ClosedError, DataError, DeadlineError, OverloadedError, SettingsError
from attar.runtime.model import Model, load
from attar.runtime.tasks.base import jsonable
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_student


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_bundle(tmp_path_factory.mktemp("batcher") / "tiny"), threads=1)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Random encoders: one that reads texts whole, one that reads them in windows, one that reads pairs."""
    folder = tmp_path_factory.mktemp("encoders")
    found = {}
    for kind in ("text-classification", "multi-task", "question-answering"):
        write(make_student(folder / f"model-{kind}", kind=kind, layers=1), folder / kind, name=kind)
        found[kind] = load(folder / kind, threads=1)
    return found


class Gate:
    """An engine that waits until it is opened, counts its calls, and breaks on a row with a chosen token."""

    name, at_once = "gate", 1

    def __init__(self, model: Model, poison: int = -1) -> None:
        self.inner, self.poison = model.engine, poison
        self.opened, self.entered = threading.Event(), threading.Event()
        self.rows: list[int] = []

    def run(self, ids: Any, mask: Any, types: Any = None) -> Mapping[str, Any]:
        self.entered.set()
        assert self.opened.wait(20)
        if (ids == self.poison).any():
            raise RuntimeError("poisoned")
        self.rows.append(len(ids))
        return self.inner.run(ids, mask, types)


@pytest.fixture
def gated(model: Model) -> Iterator[tuple[Callable[..., Batcher], Gate]]:
    """Makes batchers of one worker around a gate, which is open in the end."""
    own = Model.__new__(Model)
    own.__dict__.update(model.__dict__)
    gate = own.engine = Gate(model)
    made: list[Batcher] = []

    def make(**limits: Any) -> Batcher:
        made.append(Batcher(own, Limits(**({"at_once": 1} | limits))))
        return made[-1]

    yield make, gate
    gate.opened.set()
    for batcher in made:
        batcher.close()


def hold(batcher: Batcher, gate: Gate) -> Any:
    """Occupies the only worker."""
    future = batcher.submit(["a film"])
    assert gate.entered.wait(20)
    return future


def test_it_answers_as_the_model_does(model: Model) -> None:
    with Batcher(model) as batcher:
        assert batcher("a good film") == model("a good film")
        assert batcher(["bad", "good film"]) == model(["bad", "good film"])
        assert batcher([]) == []
        assert asyncio.run(batcher.aanswer("a good film", timeout=20)) == model("a good film")
        assert batcher.submit(["a good film", "bad"]).result(20).tokens == 6  # [CLS] and the words of each
        with pytest.raises(DataError, match="input 1 is a int, not a string"):
            batcher(["a", 1])


WORDS = st.lists(st.sampled_from(["a", "film", "good", "bad", "zoqx", "\ud83d", "東京"]), max_size=20).map(" ".join)
REQUESTS = st.lists(st.lists(WORDS, max_size=5), min_size=1, max_size=12)


@pytest.mark.parametrize("kind", ["text-classification", "multi-task", "question-answering"])
@given(requests=REQUESTS, batch_tokens=st.sampled_from([1, 40, 1024]), order=st.randoms(use_true_random=False))
def test_answers_are_those_of_the_model_alone_bit_for_bit(
    encoders: dict[str, Model], kind: str, requests: list[list[str]], batch_tokens: int, order: Any
) -> None:
    model = encoders[kind]
    if kind == "question-answering":
        requests = [[("what was " + t, "the film " + t) for t in texts] for texts in requests]  # type: ignore[misc]
    expected = [[jsonable(model([text])[0]) for text in texts] for texts in requests]
    with Batcher(model, Limits(batch_tokens=batch_tokens)) as batcher, ThreadPoolExecutor(4) as pool:
        numbers = list(range(len(requests)))
        order.shuffle(numbers)
        futures = {i: pool.submit(batcher, requests[i], 20) for i in numbers}
        assert [jsonable(futures[i].result(20)) for i in range(len(requests))] == expected


def test_requests_that_wait_share_a_batch(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    batcher = make()
    first = hold(batcher, gate)
    rest = [batcher.submit([word, "film"]) for word in ("good", "bad", "dull")]
    gate.opened.set()
    assert [f.result(20).answers[0].label for f in rest] == ["positive", "negative", "negative"]
    assert len(first.result(20).answers) == 1
    assert gate.rows == [1, 6]


def test_the_oldest_goes_with_those_of_its_length(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    batcher = make(batch_tokens=20)  # each of the short ones is taken for some 5 tokens, of the long ones for 16
    hold(batcher, gate)
    texts = ["good film " * 9, "bad film x", "good film " * 9, "fine films"]
    futures = [batcher.submit([text]) for text in texts]
    order: list[int] = []
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: order.append(i))  # type: ignore[misc]
    gate.opened.set()
    for future in futures:
        future.result(20)
    assert order == [0, 1, 3, 2] or order == [0, 2, 1, 3]
    assert gate.rows in ([1, 1, 2, 1], [1, 1, 1, 2])


def test_a_poisoned_request_fails_alone(gated: tuple[Callable[..., Batcher], Gate], model: Model) -> None:
    make, gate = gated
    gate.poison = model.tokenizer.encode(["awful"]).ids[0][1]
    batcher = make()
    hold(batcher, gate)
    futures = [batcher.submit([text]) for text in ("good film", "an awful film", "bad film")]
    gate.opened.set()
    assert futures[0].result(20).answers == [model("good film")]
    assert futures[2].result(20).answers == [model("bad film")]
    with pytest.raises(RuntimeError, match="poisoned"):
        futures[1].result(20)
    assert batcher("good") == model("good")  # and it goes on


def test_a_full_line_refuses(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    by_requests, by_tokens = make(max_requests=2), make(max_tokens=30)
    for batcher in (by_requests, by_tokens):
        gate.entered.clear()
        hold(batcher, gate)
    for _ in range(2):
        by_requests.submit(["film"])
    with pytest.raises(OverloadedError, match="2 requests are waiting") as refused:
        by_requests.submit(["film"])
    assert refused.value.retry_after >= 0
    by_tokens.submit(["film " * 400])  # alone it may wait, however long it is
    with pytest.raises(OverloadedError, match="tokens are waiting"):
        by_tokens.submit(["film " * 80])
    assert (by_requests.waiting_requests, by_tokens.waiting_tokens) == (2, 16)  # a text is cut at 16 tokens


def test_nobody_waits_longer_than_is_sensible(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    gate.opened.set()
    batcher = make(max_wait=0.001)
    batcher._line.learn_speed(100, 1.0)  # 100 tokens a second
    gate.opened.clear()
    gate.entered.clear()
    hold(batcher, gate)  # some 4 tokens: 0.04 s
    with pytest.raises(OverloadedError, match=r"would wait longer than 0\.001 s") as refused:
        batcher.submit(["film"])
    assert 0.02 < refused.value.retry_after < 0.08


def test_requests_whose_time_is_over_are_never_computed(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    batcher = make(max_requests=2)
    hold(batcher, gate)
    future = batcher.submit(["film"], timeout=0.01)
    with pytest.raises(DeadlineError, match=r"not answered within 0\.01 s"):
        batcher("film", timeout=0.01)
    with pytest.raises(DeadlineError):
        asyncio.run(batcher.aanswer("film", timeout=0.01))
    batcher.submit(["film"])  # the line was full of requests that nobody waits for
    with pytest.raises(DeadlineError):
        future.result(20)
    gate.opened.set()
    batcher.close()
    assert gate.rows == [1, 1]


@pytest.mark.parametrize("timeout", [0, -1.0, -float("inf")])
def test_a_deadline_in_the_past_is_refused(model: Model, timeout: float) -> None:
    with Batcher(model) as batcher, pytest.raises(DeadlineError):
        batcher.submit(["film"], timeout)


def test_a_timeout_is_a_number(model: Model) -> None:
    with Batcher(model) as batcher, pytest.raises(SettingsError, match="not NaN"):
        batcher("film", timeout=float("nan"))


def test_closing_answers_those_that_wait_or_fails_them(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    drained, dropped = make(), make()
    for batcher in (drained, dropped):
        gate.entered.clear()
        hold(batcher, gate)
    kept, lost = drained.submit(["good"]), dropped.submit(["good"])
    closing = [threading.Thread(target=drained.close), threading.Thread(target=dropped.close, args=(False,))]
    for thread in closing:
        thread.start()
    with pytest.raises(ClosedError, match="closed before"):
        lost.result(20)
    gate.opened.set()
    for thread in closing:
        thread.join(20)
    assert kept.result(20).answers[0].label == "positive"
    with pytest.raises(ClosedError, match="is closed"):
        drained("good")
    drained.close()  # twice is no harm


def test_a_cancelled_coroutine_is_not_computed(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    batcher = make()
    hold(batcher, gate)

    async def leave() -> None:
        task = asyncio.create_task(batcher.aanswer("good"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    gate.opened.set()
    batcher.close()
    assert gate.rows == [1]


def _in_child(batcher: Batcher, answer: Any) -> None:
    try:
        batcher("good")
    except ClosedError as error:
        answer.send(str(error))
    batcher.close()


def test_a_forked_child_is_told(model: Model) -> None:
    with Batcher(model) as batcher:
        here, there = multiprocessing.Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer warn of forks beside threads
            child = multiprocessing.get_context("fork").Process(target=_in_child, args=(batcher, there))
            child.start()
        assert here.poll(20)
        assert "forked" in here.recv()
        child.join(20)
        assert child.exitcode == 0


def test_warming_up_computes_every_length_once(gated: tuple[Callable[..., Batcher], Gate]) -> None:
    make, gate = gated
    gate.opened.set()
    batcher = make(batch_tokens=64)
    assert batcher.warm_up(20) == 4
    assert gate.rows == [1, 1, 8, 4] or gate.rows == [1, 1, 4, 8]  # 8 and 16 tokens, alone and in full batches
    assert batcher.warm_up(0) == 0


def test_it_tells_what_it_did(model: Model) -> None:
    seen: list[tuple[str, float]] = []
    with Batcher(model, observe=lambda name, value: seen.append((name, value))) as batcher:
        batcher(["good film", "bad"])
    assert [name for name, _ in seen] == [
        "queue_seconds", "tokenize_seconds", "infer_seconds", "batch_texts", "batch_tokens",
    ]  # fmt: skip
    assert dict(seen)["batch_texts"] == 2 and dict(seen)["batch_tokens"] == 5
    assert np.isfinite([value for _, value in seen]).all()
