"""Sweeps, and what keeps a benchmark from comparing different things."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attar.runtime.bench.rounds import Plan
from attar.runtime.bench.same import refuse_another_task
from attar.runtime.bench.sweep import Sweep, read_sweep, sweep
from attar.runtime.errors import AttarError, DataError, SettingsError
from tests.fixtures_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def task(**changes: Any) -> dict[str, Any]:
    return {"kind": "text-classification", "heads": [[2, "classes"]], "labels": ["bad", "good"]} | changes


def test_axes_are_read() -> None:
    assert read_sweep(["batch=1,8", "length=16", "threads=1,2"]) == Sweep((1, 8), (16,), (1, 2))
    assert read_sweep(["engine=onnx,cuda"]) == Sweep(engines=("onnx", "cuda"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("size=3", "a sweep is over batch, length, threads, engine"),
        ("batch", "'' "),
        ("batch=0", "from 1 on, not '0'"),
        ("length=1.5", "a whole number"),
        ("engine=fast", "one of onnx, openvino, cuda, tensorrt"),
    ],
)
def test_what_cannot_be_varied_is_refused(given: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said.strip()):
        read_sweep([given])
    with pytest.raises(SettingsError, match="names batch once"):
        read_sweep(["batch=1", "batch=2"])


def test_every_point_has_every_system_and_texts_of_its_length(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.runtime.bench.sweep.SECONDS", 0.01)
    monkeypatch.setattr("attar.runtime.bench.sweep.Plan", partial(Plan, pause=0.0))
    over = Sweep(batches=(3,), lengths=(4, 9), threads=(1,))
    # Every word is one token, and [CLS] another.
    found = sweep(bundle, [bundle], ["a good film", "the dull film"], over, rounds=2)
    points = [(c["batch"], c["tokens"], c["system"]) for c in json.loads(json.dumps(found.to_json()))["sweep"]]
    names = ("tiny", "tiny#2")
    assert points == [(3, n, name) for n in (4, 9) for name in names]
    for ours, other in zip(found.cells[::2], found.cells[1::2], strict=True):
        assert ours.speedup is None and other.speedup is not None and other.speedup.low <= other.speedup.high
        assert ours.ms == pytest.approx(1e3 * ours.batch / ours.throughput_per_s)
    assert not found.noisy  # two rounds are too few to judge the machine by
    assert "bundle against it" in found.table()


def test_a_point_beyond_the_bundle_is_refused(bundle: Path) -> None:
    with pytest.raises(SettingsError, match="length=17: the bundle reads 16 tokens at most"):
        sweep(bundle, [], ["good"], Sweep(lengths=(17,)))
    with pytest.raises(SettingsError, match="length=1: not one word fits"):
        sweep(bundle, [], ["good"], Sweep(lengths=(1,)))
    with pytest.raises(AttarError, match="tiny: the bundle takes 32 rows in a batch at most, not 33"):
        sweep(bundle, [], ["good"], Sweep(batches=(33,), threads=(1,)), rounds=2)
    with pytest.raises(DataError, match="no words"):
        sweep(bundle, [], [" "], Sweep(lengths=(4,)))


def test_systems_of_different_tasks_are_not_compared() -> None:
    with pytest.raises(
        SettingsError, match=r"teacher does another task .*regression with outputs 1 \(value\), and not"
    ):
        refuse_another_task("teacher", task(), task(kind="regression", heads=[[1, "value"]], labels=None))
    with pytest.raises(SettingsError, match=r"outputs 3 \(classes\)"):
        refuse_another_task("teacher", task(), task(heads=[[3, "classes"]], labels=["bad", "good", "fine"]))
    with pytest.raises(SettingsError, match=r"other labels than the bundle \('no', 'yes'"):
        refuse_another_task("teacher", task(), task(labels=["yes", "no"]))


def test_names_that_may_mean_the_same_are_let_through() -> None:
    for labels in (["GOOD", "BAD"], ["LABEL_0", "LABEL_1"]):
        refuse_another_task("teacher", task(), task(labels=labels))
