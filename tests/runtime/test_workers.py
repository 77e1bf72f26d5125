"""Several worker processes, and what may be used after a fork."""

import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import AttarError, ClosedError, SettingsError
from attar.runtime.model import load
from attar.runtime.server import Settings, serve
from attar.runtime.server.metrics import Meter, exposition
from attar.runtime.server.setup import listen
from attar.runtime.server.shelf import Shelf
from attar.runtime.server.workers import SLOT, Board, Place, Supervisor, keep
from tests.fixtures_bundle import make_tiny_bundle, tiny_model
from tests.runtime.serving import serving
from tests.runtime.test_reload import OLD, TEXT, events, make, spoil


def forked(call: Callable[[], Any]) -> Any:
    """What a forked process finds, which must not hang."""
    here, there = multiprocessing.Pipe()

    def work() -> None:
        try:
            there.send(call())
        except Exception as error:
            there.send(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer warn of forks beside threads
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
    try:
        assert here.poll(20), "the child hangs"
        return here.recv()
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_small_model_answers_after_a_fork(tmp_path: Path, threads: int) -> None:
    model = load(make_tiny_bundle(tmp_path / "tiny"), threads=threads)
    texts = [TEXT, "bad film", "the great fine film"]
    expected = [answer.score for answer in model(texts)]
    assert forked(lambda: [answer.score for answer in model(texts)]) == expected
    assert [answer.score for answer in model(texts)] == expected


def test_a_model_with_threads_says_so_after_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.runtime.engines.onnx.SMALL", 0)  # small models have no threads of their own
    model = load(make_tiny_bundle(tmp_path / "tiny"), threads=2)
    model(TEXT)
    error = forked(lambda: model(TEXT))
    assert isinstance(error, ClosedError) and "threads=1" in str(error)


def test_a_model_that_was_computing_at_the_fork_says_so() -> None:
    engine, inside, leave = OnnxEngine(tiny_model(), threads=1), threading.Event(), threading.Event()
    session, ids = engine._session, np.zeros((1, 1), dtype=np.int64)

    class Slow:
        def run(self, *arguments: Any) -> Any:
            inside.set()
            assert leave.wait(20)
            return session.run(*arguments)

    engine._session = Slow()
    thread = threading.Thread(target=engine.run, args=(ids, ids))
    thread.start()
    assert inside.wait(20)
    assert isinstance(forked(lambda: engine.run(ids, ids)), ClosedError)
    leave.set()
    thread.join()
    engine._session = session
    assert forked(lambda: list(engine.run(ids, ids))) == ["logits"]


def test_a_supervisor_keeps_what_workers_start_from(tmp_path: Path) -> None:
    folder = make(tmp_path / "tiny")
    for threads in (1, 2):
        shelf = Shelf(folder, keep(threads, {"top_k": 1}, Choice()))
        shelf.load()
        (model,) = (make() for make in shelf.opened.values())
        assert model(TEXT).score == OLD and len(model(TEXT).scores) == 1


def test_what_workers_tell_each_other() -> None:
    board, here = Board(2), frozenset[signal.Signals]()
    assert not board.written(1) and board.read(1) is None
    meters = [Meter((("worker", str(i)),)) for i in range(2)]
    for i, meter in enumerate(meters):
        meter.count("requests_total", route="/predict", code="200")
        meter.observe("batch_texts", 3 + i)
        meter.gauge("active_requests", (), lambda: 0)
        Place(i, board, 0, here).publish(meter.snapshot())
    (other,) = Place(0, board, 0, here).others()
    text = exposition([meters[0].snapshot(), other])
    assert text.count("# TYPE attar_requests_total counter") == 1
    for i in range(2):
        assert f'attar_requests_total{{route="/predict",code="200",worker="{i}"}} 1\n' in text
        assert f'attar_batch_texts_sum{{worker="{i}"}} {3.0 + i}\n' in text
    board._slots[1][20] ^= 1  # as if it was being written
    assert board.read(1) is None
    board.clear(1)
    assert not board.written(1)


def test_metrics_that_do_not_fit_are_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("attar.server"), "propagate", True)
    board = Board(1)
    board.write(0, {"counters": ["x" * SLOT]})
    assert "too many metrics" in caplog.text and not board.written(0)


def test_workers_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    shelf = Shelf(make(tmp_path / "tiny"), keep(1, {}, Choice()))
    shelf.load()

    def fails(place: Place) -> None:
        raise SettingsError("no")

    announced: list[Any] = []
    with listen("127.0.0.1", 0) as listener, pytest.raises(AttarError, match="before it was ready"):
        Supervisor(shelf, listener, Settings(workers=2), fails).run(announced.append)
    assert not announced


@pytest.mark.parametrize("fields", [{"workers": 0}, {"workers": 1.5}, {"watch": -1.0}, {"watch": float("nan")}])
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(fields))):
        Settings(**fields)


def test_workers_need_threads(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="threads must be at least 1"):
        serve(make(tmp_path / "tiny"), port=0, threads=0, settings=Settings(workers=2))


def test_workers_answer_are_replaced_and_reload(tmp_path: Path) -> None:
    folder = make(tmp_path / "tiny")
    apart = httpx.Limits(max_keepalive_connections=0)  # a connection a request, so that both workers are asked
    with (
        serving(folder, "--workers", "2") as (process, address),
        httpx.Client(base_url=address, timeout=20, trust_env=False, limits=apart) as client,
    ):

        def scores(count: int) -> set[float]:
            replies = [client.post("/predict", json={"text": TEXT}) for _ in range(count)]
            return {round(reply.json()["answers"][0]["score"], 6) for reply in replies}

        assert scores(4) == {0.731059}
        metrics = client.get("/metrics").text
        assert all(f'attar_active_requests{{worker="{i}"}} 0\n' in metrics for i in range(2))
        spoil(folder)
        process.send_signal(signal.SIGHUP)
        assert [line["event"] for line in events(process, "reloaded")] == ["reload refused", "reloaded"]
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(workers[0]), signal.SIGKILL)  # its successor has the good version, not what lies on the disk
        ended, replaced = events(process, "worker replaced")
        assert (ended["event"], ended["status"]) == ("worker ended", -9)
        assert replaced["worker"] == ended["worker"] and scores(6) == {0.731059}
        threads = Path(f"/proc/{workers[1]}/task")
        before = len(list(threads.iterdir()))
        make(folder, 2.0)
        process.send_signal(signal.SIGHUP)
        assert [events(process, "reloaded")[-1]["loaded"] for _ in range(3)] == [["tiny"]] * 3
        assert scores(6) == {0.622459}
        end = time.monotonic() + 20
        while len(list(threads.iterdir())) > before + 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(list(threads.iterdir())) <= before + 1  # one that loads; the old model and its own are gone


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="drained"), serving(make(tmp_path / "tiny"), "--workers", "2") as served:
        process, address = served
        process.kill()  # the end of their log is the end of the workers
        process.wait()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)
