"""Lists that several threads compute at once: the same bits in the same order, and errors as of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar.runtime.model import Model, load
from tests.fixtures_bundle import make_tiny_bundle

TEXTS = [("dull and slow " * (1 + i % 9)).strip() + f" film number {i}" for i in range(150)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[int, Model]:
    folder = tmp_path_factory.mktemp("threads") / "bundle"
    make_tiny_bundle(folder)
    return {threads: load(folder, threads=threads) for threads in (1, 3)}


def test_a_list_is_shared_out_and_its_answers_are_the_same(models: Mapping[int, Model], monkeypatch: Any) -> None:
    model, calls = models[3], []
    run = model.engine.run
    monkeypatch.setattr(model.engine, "run", lambda *given: calls.append(given[0].size) or run(*given))
    np.testing.assert_array_equal(model.logits(TEXTS), models[1].logits(TEXTS))
    # Each thread has something to do, of about the same size, and no batch is so small that it does not pay.
    assert len(calls) >= 3 and max(calls) <= 1024
    assert [a.scores for a in model(TEXTS)] == [a.scores for a in models[1](TEXTS)]
    calls.clear()
    model(TEXTS[:4])
    assert len(calls) == 1


def test_one_batch_that_fails_fails_the_call(models: Mapping[int, Model], monkeypatch: Any) -> None:
    model, run = models[3], models[3].engine.run

    def broken(*given: Any) -> Any:
        if given[0].shape[1] > 12:
            raise RuntimeError("out of memory")
        return run(*given)

    monkeypatch.setattr(model.engine, "run", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        model(TEXTS)


def test_a_large_model_has_all_threads_in_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_bundle(tmp_path / "bundle")
    monkeypatch.setattr("attar.runtime.engines.onnx.SMALL", 0)
    assert load(tmp_path / "bundle", threads=3).engine.at_once == 1
