"""Bundles that change while they are served: nobody notices but by the answers, and what is bad is left out."""

import asyncio
import gc
import json
import os
import shutil
import signal
import time
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from attar.runtime.bundle import MANIFEST, Bundle, write_bundle
from attar.runtime.model import Model, load
from attar.runtime.server.app import application
from attar.runtime.server.metrics import Meter
from attar.runtime.server.models import Models
from attar.runtime.server.shelf import Opened, Shelf, Watch, promise
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.waiting import Limits, Line
from tests.fixtures_bundle import LABELS, MAX_LENGTH, make_tiny_bundle
from tests.runtime.serving import holding, serving

# One good word among others has the logits 0 and 1: 1 / (1 + exp(-1)), and at temperature 2 1 / (1 + exp(-0.5)).
TEXT, OLD, NEW = "a good film", pytest.approx(0.731059, abs=1e-6), pytest.approx(0.622459, abs=1e-6)


def make(folder: Path, temperature: float = 1.0, labels: tuple[str, ...] = LABELS) -> Path:
    return make_tiny_bundle(folder, task=TextClassification(labels, MAX_LENGTH, temperature=temperature))


def spoil(folder: Path) -> None:
    """Another version whose golden inputs do not reproduce."""
    bundle = Bundle.read(folder)
    golden = json.loads(bundle.contents["golden.json"])
    golden["outputs"][0]["logits"] = [[0.5, 0.5]]
    write_bundle(folder, bundle.manifest, {**bundle.contents, "golden.json": json.dumps(golden).encode()})


def shelf_of(path: Path) -> Shelf[Model]:
    def open_(name: str | None, bundle: Path) -> Opened[Model]:
        model = load(bundle, threads=1)
        return Opened(name or model.manifest.name, model.task, lambda: model)

    shelf = Shelf(path, open_)
    shelf.load()
    return shelf


def test_requests_keep_the_model_that_they_began_with_and_it_ends_after_them(tmp_path: Path) -> None:
    old, engine = holding(load(make(tmp_path / "old"), threads=1))
    new = load(make(tmp_path / "new", 2.0), threads=1)
    models = Models(Meter(), Limits(at_once=1))
    models.add("tiny", old)
    models.state = "ready"
    app, swapped = application(models, None), asyncio.Event()
    gone = weakref.ref(old)
    del old

    async def slowly() -> AsyncIterator[bytes]:
        yield b'{"text": '
        await swapped.wait()
        yield json.dumps(TEXT).encode() + b"}"

    async def scenario() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            computed = asyncio.create_task(client.post("/predict", json={"text": TEXT}))
            await asyncio.to_thread(engine.entered.wait, 20)
            waiting = asyncio.create_task(client.post("/predict", json={"text": TEXT}))
            sending = asyncio.create_task(client.post("/predict", content=slowly()))
            while models.active < 3:
                await asyncio.sleep(0)
            models.add("tiny", new)
            replies = [await client.post("/predict", json={"text": TEXT})]
            engine.opened.set()
            replies += [await computed, await waiting]
            await asyncio.sleep(0.05)  # the old model must not end now: the slow sender has still to ask it
            swapped.set()
            return [*replies, await sending]

    replies = asyncio.run(scenario())
    assert [r.status_code for r in replies] == [200] * 4
    assert [r.json()["answers"][0]["score"] for r in replies] == [NEW, OLD, OLD, OLD]
    end = time.monotonic() + 20
    while gone() is not None and time.monotonic() < end:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None


def test_a_new_version_expects_the_speed_of_the_old_one() -> None:
    old, new = Line(Limits(), 50.0), Line(Limits(), 50.0)
    old.learn_speed(100, 1.0)
    new.learn_speed(8, 4.0)  # the first batch came at a bad moment
    new.learn_from(old)
    new.learn_from(Line(Limits(), 50.0))  # which knows nothing
    new.add(new.request(["x" * 10] * 4, None))  # 4 * (2 + 10 * 0.3) = 20 tokens at 100 a second
    assert new.expected_wait == pytest.approx(0.2)


def damage(folder: Path) -> None:
    make(folder, 2.0)
    (folder / "model.onnx").write_bytes(b"half")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage, "model.onnx has 4 bytes"),
        (spoil, "golden inputs do not reproduce"),
        (lambda folder: make(folder, 2.0, ("bad", "good")), "labels differ from what the clients of 'tiny'"),
        (lambda folder: (folder / MANIFEST).unlink(), "no bundle at"),
        (shutil.rmtree, "no bundle at"),
        (lambda folder: make(folder / "within") and (folder / MANIFEST).unlink(), "was one bundle and is a folder"),
    ],
)
def test_what_cannot_take_over_is_told_and_changes_nothing(
    tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    folder = make(tmp_path / "tiny")
    shelf = shelf_of(folder)
    model = shelf.opened["tiny"]
    change(folder)
    assert shelf.differs()
    changes = shelf.refresh()
    assert not changes.opened and not changes.removed
    assert words in changes.refused["tiny"]
    assert shelf.opened == {"tiny": model} and model(TEXT).score == OLD
    shutil.rmtree(folder, ignore_errors=True)
    make(folder, 2.0)
    assert list(shelf.refresh().opened) == ["tiny"] and shelf.opened["tiny"](TEXT).score == NEW


def test_models_come_and_go_with_their_folders(tmp_path: Path) -> None:
    make(tmp_path / "a"), make(tmp_path / "b")
    shelf = shelf_of(tmp_path)
    assert not shelf.differs() and not shelf.refresh().opened
    kept = shelf.opened["b"]
    shutil.rmtree(tmp_path / "a")
    make(tmp_path / "c", 2.0)
    changes = shelf.refresh()
    assert (list(changes.opened), changes.removed, changes.refused) == (["c"], ("a",), {})
    assert sorted(shelf.opened) == ["b", "c"] and shelf.opened["b"] is kept
    for name in "bc":
        shutil.rmtree(tmp_path / name)
    assert set(shelf.refresh().refused) == {"b", "c"}, "no model at all is not what anybody wants"
    damage(tmp_path / "d")
    changes = shelf.refresh()
    assert (set(changes.refused), changes.removed) == ({"d"}, ("b", "c"))
    make(tmp_path / "d")
    assert list(shelf.refresh().opened) == ["d"]


def test_a_single_bundle_keeps_its_name(tmp_path: Path) -> None:
    shelf = shelf_of(make(tmp_path / "served"))
    make_tiny_bundle(tmp_path / "served", name="renamed")
    assert list(shelf.refresh().opened) == ["tiny"] == list(shelf.opened)


def test_what_clients_are_promised() -> None:
    task = TextClassification(LABELS, MAX_LENGTH)
    assert promise(task) == promise(replace(task, temperature=2.0))
    assert promise(task) != promise(replace(task, labels=("positive", "negative")))
    vectors = Embedding(8, MAX_LENGTH)
    assert promise(vectors) != promise(replace(vectors, dimensions=16))


def test_a_watch_waits_until_a_copy_is_complete_and_tries_a_bad_one_once(tmp_path: Path) -> None:
    folder, source = make(tmp_path / "tiny"), make(tmp_path / "source", 2.0)
    shelf = shelf_of(folder)
    watch = Watch(shelf)
    assert [watch.due() for _ in range(3)] == [False] * 3
    for number, file in enumerate(sorted(source.iterdir(), reverse=True)):  # the manifest neither first nor last
        shutil.copyfile(file, folder / file.name)
        os.utime(folder / file.name, ns=(number, number))  # two copies within a tick of the clock are two all the same
        assert not watch.due()
    assert watch.due()
    assert list(shelf.refresh().opened) == ["tiny"]
    assert not watch.due()
    spoil(folder)
    assert [watch.due() for _ in range(2)] == [False, True]
    assert shelf.refresh().refused
    assert not watch.due() and not watch.due()


def events(process: Any, last: str) -> list[dict[str, Any]]:
    """The lines of a server's log up to the first of this event."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["event"] != last:
        found.append(json.loads(process.stderr.readline()))
    return found


def test_a_server_reloads_at_a_signal_and_by_itself(tmp_path: Path) -> None:
    make(tmp_path / "one")
    with (
        serving(tmp_path, "--watch", "0.05") as (process, address),
        httpx.Client(base_url=address, timeout=20, trust_env=False) as client,
    ):

        def score(name: str) -> Any:
            return client.post(f"/models/{name}/predict", json={"text": TEXT}).json()["answers"][0]["score"]

        assert score("one") == OLD
        process.send_signal(signal.SIGHUP)
        assert events(process, "reloaded")[-1]["loaded"] == []
        make(tmp_path / "one", 2.0)
        make(tmp_path / "two")
        while (told := events(process, "reloaded")[-1])["loaded"] == ["one"]:
            pass  # the watch may have looked between the two
        assert "two" in told["loaded"] and (score("one"), score("two")) == (NEW, OLD)
        spoil(tmp_path / "one")
        refused = events(process, "reload refused")[-1]
        assert refused["model"] == "one" and "golden inputs do not reproduce" in refused["reason"]
        shutil.rmtree(tmp_path / "two")
        while events(process, "reloaded")[-1]["removed"] != ["two"]:
            pass
        assert client.post("/models/two/predict", json={"text": TEXT}).status_code == 404
        assert score("one") == NEW
        metrics = client.get("/metrics").text
    assert 'attar_reloads_total{model="one",result="loaded"} 1\n' in metrics
    assert 'attar_reloads_total{model="one",result="refused"}' in metrics
    assert 'attar_queue_requests{model="one"}' in metrics and 'attar_queue_requests{model="two"}' not in metrics
