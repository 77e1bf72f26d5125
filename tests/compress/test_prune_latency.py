"""Pruning to a latency: the search, the table, and what comes true of its promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.compress.prune import latency
from attar.compress.prune.budget import cheapest
from attar.compress.prune.table import counts, measured
from attar.distill.encoder import LayerShape
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from tests.compress.pruning import TEXTS, context
from tests.models import by_size, make_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("prune") / "bert", layers=3)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 9)), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 80),
)
def test_the_search_is_exact(blocks: list[list[tuple[int, float]]], budget: int) -> None:
    """Against all choices; whole costs, which the rounding to ticks leaves apart by far more than it moves them."""
    costs, losses = ([[float(level[k]) for level in block] for block in blocks] for k in (0, 1))
    fitting = [
        sum(level[1] for level in chosen) for chosen in product(*blocks) if sum(level[0] for level in chosen) <= budget
    ]
    if not fitting:
        with pytest.raises(ValueError, match="cost more than the budget"):
            cheapest(costs, losses, budget)
        return
    found = cheapest(costs, losses, budget + 0.5)
    assert sum(block[i] for block, i in zip(costs, found, strict=True)) <= budget
    assert sum(block[i] for block, i in zip(losses, found, strict=True)) == pytest.approx(min(fitting))


def test_counts_of_a_block() -> None:
    assert counts(12, 4, 1) == (1, 5, 8, 12)
    assert counts(100, 3, 32) == (32, 64, 100)
    assert counts(16, 8, 32) == (16,)


def test_the_table_finds_what_a_unit_costs(student: Student) -> None:
    """A clock that charges 1 ms a network, 0.5 a head, 0.01 a neuron, half of it in the last layer, and 10 % more for
    the student itself, whatever for: the table has to put that on its blocks."""

    def charge(shapes: Sequence[LayerShape]) -> float:
        shares = [1.0] * (len(shapes) - 1) + [0.5]
        return 1.0 + sum(f * (0.5 * s.heads + 0.01 * s.ffn) for f, s in zip(shares, shapes, strict=True))

    def clock(students: Sequence[Student]) -> list[float]:
        times = [charge(s.transformer.shape.layers) for s in students]
        return [1.0 + 1.1 * (times[0] - 1.0), *times[1:]]

    table = measured(student, {"heads": (1, 2, 4), "ffn": (8, 64)}, clock)
    shapes = student.transformer.shape.layers
    own, least = charge(shapes), charge([LayerShape(1, 8, 8)] * 3)
    scale = (1.0 + 1.1 * (own - 1.0) - least) / (own - least)
    wanted = [LayerShape(3, 8, 36), LayerShape(1, 8, 8), LayerShape(2, 8, 64)]
    assert table.least == pytest.approx(least)
    assert table.predicted(shapes) == pytest.approx(1.0 + 1.1 * (own - 1.0))
    assert table.predicted(wanted) == pytest.approx(least + scale * (charge(wanted) - least))


@pytest.mark.parametrize("settings", [{"speedup": 2.0}, {"milliseconds": 1.5}])
def test_the_budget_is_kept_and_the_prediction_comes_true(settings: dict[str, float], student: Student) -> None:
    where = context()
    cut = latency.apply(student, latency.Settings(group=8, levels=3, importance="magnitude", **settings), where)
    facts, (before, after) = cut.lineage[-1], by_size([student, cut], 8, 32)
    assert after <= settings.get("milliseconds", before / 2) * 1.001
    assert after > 0.7 * settings.get("milliseconds", before / 2)  # and not cut down to the least
    assert (facts["before_ms"], facts["measured_ms"]) == pytest.approx((before, after), abs=1e-4)
    assert facts["predicted_ms"] == pytest.approx(after, rel=0.01)
    assert min(facts["heads"]) >= 1 and all(n % 8 == 0 for n in facts["ffn"])


def test_what_costs_nothing_goes_first(student: Student) -> None:
    silent = student.copy()
    with torch.no_grad():
        silent.encoder.layers[1].ffn_out.weight.zero_()
    cut = latency.apply(silent, latency.Settings(1.1, group=8, levels=3), context())
    assert cut.lineage[-1]["ffn"][1] == 8
    assert (cut.logits(TEXTS) - silent.logits(TEXTS)).abs().max() < 0.2


def test_a_budget_that_cannot_be_met_names_the_best(student: Student) -> None:
    low = [LayerShape(1, 8, 8)] * 3
    least = by_size(
        [replace(student, encoder=type(student.transformer)(replace(student.encoder.shape, layers=tuple(low))))], 8, 32
    )[0]
    with pytest.raises(SettingsError, match="speedup = 50 cannot be had") as caught:
        latency.apply(student, latency.Settings(50, group=8), context())
    assert f"{least:.3f} ms" in str(caught.value) and "compress.prune.layers" in str(caught.value)
    with pytest.raises(SettingsError, match=r"milliseconds = 0\.1 cannot be had: 0\.100 ms for 8 x 32 tokens"):
        latency.apply(student, latency.Settings(milliseconds=0.1, group=8), context())
