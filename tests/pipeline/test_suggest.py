"""Students that keep to a latency or a size: ranked by what they can hold, and honest where none fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.distill.encoder import LayerShape
from attar.pipeline import suggest as module
from attar.pipeline.progress import Console
from attar.pipeline.recipe import parse
from attar.pipeline.suggest import Cell, Wanted, suggest
from attar.runtime.errors import SettingsError
from tests.models import make_checkpoint

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("suggest") / "base", layers=4, trained=False)


@pytest.fixture(autouse=True)
def by_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a clock: 1 ms for everything but layers, and 1 ms a layer whatever its size."""

    def timed(calls: Sequence[Callable[[], object]], rounds: int, inner: int = 5) -> list[float]:
        for call in calls:
            call()
        return [0.002 if i % 2 == 0 else 0.004 for i in range(len(calls))]

    monkeypatch.setattr(module, "timed", timed)


def test_the_largest_that_fits_comes_first(base: Path) -> None:
    found = suggest(base, "base", Wanted(latency_ms=4.5), QUIET)
    best = found["plans"][0]
    assert (best["layers"], best["width"], best["heads"], best["ffn"]) == (3, 32, 4, 64)
    assert best["latency_ms"] == pytest.approx(4.0)
    weights = [p["weights"] for p in found["plans"]]
    assert weights == sorted(weights, reverse=True) and weights[0] == 3 * 32 * (4 * 32 + 2 * 64)
    assert all(p["latency_ms"] <= 4.5 for p in found["plans"])
    unlimited = suggest(base, "base", Wanted(latency_ms=100), QUIET)["plans"][0]
    assert unlimited["layers"] == 4


def test_what_a_further_layer_costs_by_hand() -> None:
    cell = Cell(32, LayerShape(2, 8, 64), first=0.002, further=0.0005, size=1_000_000, growth=250_000.0)
    plan = cell.plan(3)
    assert (plan.latency_ms, plan.size_mb, plan.weights) == (3.0, 1.5, 3 * 32 * (4 * 16 + 2 * 64))


def test_its_steps_are_a_recipe(base: Path) -> None:
    import tomllib

    found = suggest(base, "base", Wanted(latency_ms=3.5), QUIET)
    record: dict[str, Any] = tomllib.loads(found["steps"])
    recipe = parse({"name": "x", "data": {"train": "t.csv"}, "teacher": {"model": "base"}, **record})
    assert recipe.steps[0].use == "distill.students.encoder"
    assert recipe.steps[0].settings.layers == (2, 4)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [({"latency_ms": 0.5}, r"the quickest takes 2\.00 ms"), ({"size_mb": 0.001}, r"the smallest 0\.\d MB")],
)
def test_none_fits(wanted: dict[str, float], said: str, base: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        suggest(base, "base", Wanted(**wanted), QUIET)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--latency-ms, --size-mb, or both"),
        (["--latency-ms", "-1"], "--latency-ms must be above 0"),
        (["--size-mb", "1", "--tokens", "2"], "--tokens must be between 3 and"),
    ],
)
def test_bad_limits(arguments: list[str], said: str, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", str(base), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_verb_prints(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", str(base), "--latency-ms", "3.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plans"]
    assert main(["suggest", str(base), "--latency-ms", "3.5"]) == 0
    assert "built and timed: 2.00 ms (expected 3.00)" in capsys.readouterr().out
