"""Blame names planted outliers; the healer brings the answers back, or says what stops it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attar.compress import blame, heal
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.runtime.bench.paired import Ratio
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.regression import Regression
from benchmarks.blame import Case, case, context, plant, random_student

SEEDS = (0, 1, 3)
"""One scale a token (even) and calibrated scales (odd)."""


@pytest.fixture(scope="module", params=SEEDS)
def planted(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


@pytest.fixture(scope="module")
def static() -> Case:
    return case(1)


def test_a_plant_changes_nothing_in_fp32() -> None:
    clean = random_student(3, 4)
    dirty = plant(clean, [1, 3], np.random.default_rng(0))
    texts = ["w1 w2 w3", "w9 " * 20]
    assert np.abs(clean.logits(texts).numpy() - dirty.logits(texts).numpy()).max() < 1e-4


def test_planted_layers_are_named_first_and_in_them_a_planted_matrix(planted: Case) -> None:
    layers, matrices = blame.blame(planted.student, context(planted.dev).outputs)
    first = [part.name for part in layers][: len(planted.planted)]
    assert set(first) == set(planted.planted)
    assert matrices[0].name.rpartition(".")[0] in planted.planted
    assert matrices[0].name.endswith((".output", ".ffn_out")), "the matrix behind the outlier channel is the worst"


def test_the_healer_returns_under_the_margin(planted: Case) -> None:
    work, before = context(planted.dev), planted.student.digest()
    healed = heal.apply(planted.student, heal.Settings(margin=2.0), work)
    facts = healed.lineage[-1]
    assert planted.student.digest() == before
    assert 100 - work.score(planted.student) > 2.0, "or there was nothing to heal"
    assert facts["inside"] and not facts["limit"]
    assert facts["loss_points"] == pytest.approx(100 - work.score(healed), abs=1e-3) and facts["loss_points"] <= 2.0
    assert len(to_onnx(healed)) < len(to_onnx(replace(healed, plan=None))), "most of it stays in int8"


def test_query_key_and_value_are_freed_together() -> None:
    """They read the same activations, which are quantized once: by one scale or by one a token."""
    scales = {f"layers.{i}.{m}": 0.1 for i in (0, 1) for m in ("query", "key", "value", "output")}
    student = replace(random_student(0, 2), plan=QuantPlan(scales).to_json())
    healed = heal.per_token(student, "layers.1.key")
    assert set(blame.plan_of(healed).scales) == {f"layers.0.{m}" for m in ("query", "key", "value", "output")} | {
        "layers.1.output"
    }
    to_onnx(healed)


def test_alone_and_without_are_each_others_complement() -> None:
    student = replace(random_student(0, 2), plan=QuantPlan({"layers.0.key": 0.1}).to_json())
    parts = blame.layers(student)
    assert list(parts) == ["words", "layers.0", "layers.1"]
    assert parts["layers.1"] == tuple(f"layers.1.{m}" for m in ("query", "key", "value", "output", "ffn_in", "ffn_out"))
    one = blame.plan_of(blame.alone(student, ["layers.0.key"]))
    rest = blame.plan_of(blame.without(student, ["layers.0.key"]))
    assert set(one.full) | set(rest.full) == {*parts["layers.0"], *parts["layers.1"]}
    assert rest.full == ("layers.0.key",) and (one.words, rest.words) == ("fp32", "int8")
    assert blame.layers(blame.alone(student, ["words"])) == {"words": ("words",)}
    assert blame.plan_of(blame.alone(student, ["words"])).words == "int8"
    with pytest.raises(SettingsError, match=r"in fp32.*compress\.quantize\.int8"):
        blame.layers(replace(student, plan=None))


def test_distance_by_hand() -> None:
    """Numbers 1, 2, 3 answered as 1, 2, 5: an error of 4 against a variance of 1 + 0 + 1."""
    task = Regression(8)
    name = task.heads[0].name
    true, mine = (np.array([[1.0], [2.0], [x]], np.float32) for x in (3.0, 5.0))
    assert blame.distance(task, {name: mine}, {name: true}) == pytest.approx(2.0)
    assert blame.distance(task, {name: true}, {name: true}) == 0.0
    assert blame.distance(task, {name: np.full_like(true, 2.0)}, {name: true}) == pytest.approx(1.0)


def test_distance_does_not_see_what_a_softmax_does_not_see() -> None:
    task = TextClassification(("a", "b"), 8)
    head = task.heads[0]
    true = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]], np.float32)
    assert blame.distance(task, {head.name: true + np.array([[3], [-1], [0]])}, {head.name: true}) == pytest.approx(
        0.0, abs=1e-9
    )
    assert blame.distance(task, {head.name: true[:, ::-1]}, {head.name: true}) > 1


def test_the_worst_are_the_fewest_that_have_the_share() -> None:
    parts = [blame.Part(str(d), (), d) for d in (6.0, 3.0, 0.5, 0.5)]
    assert [p.distance for p in blame.worst(parts, 0.9)] == [6.0, 3.0]
    assert [p.distance for p in blame.worst(parts, 0.91)] == [6.0, 3.0, 0.5]
    assert blame.worst([blame.Part("x", (), 0.0)]) == []


def test_the_cheaper_of_two_equal_repairs_comes_first(static: Case) -> None:
    """Where only feed-forward matrices cost time, those of attention are put back before them."""

    def speedup(before: Student, after: Student) -> Ratio:
        a, b = (sum("ffn" in n for n in blame.plan_of(s).full) if s.plan else 99 for s in (before, after))
        return Ratio((10 + a) / (10 + b), 0.0, (10 + a) / (10 + b), 2)

    work = replace(context(static.dev), speedup=speedup)
    reference = work.outputs(replace(static.student, plan=None))[1]
    found = heal.repairs(static.student, ("full",), work, reference)
    for repair in found:
        assert repair.cost == pytest.approx(0.1 if "ffn" in repair.name else heal.LEAST_COST)
    assert [r.gain / r.cost for r in found] == sorted((r.gain / r.cost for r in found), reverse=True)
    assert len({r.name for r in found}) == len(found)


def test_the_healer_says_which_limit_stops_it(static: Case) -> None:
    slow = replace(context(static.dev), speedup=lambda a, b: Ratio(0.97, 0.95, 0.99, 11))
    stopped = heal.apply(static.student, heal.Settings(margin=2.0), slow)
    facts = stopped.lineage[-1]
    assert stopped.plan == static.student.plan and not facts["inside"]
    assert facts["limit"].endswith("repaired it is 0.97x as fast as in fp32")


def test_the_healer_says_when_no_repair_is_left() -> None:
    found = case(0)  # one scale a token already
    few = heal.apply(found.student, heal.Settings(margin=0.0, repairs=("per_token",)), context(found.dev))
    facts = few.lineage[-1]
    assert (facts["limit"], facts["inside"]) == ("none of the repairs per_token helps any more", False)
    assert few.plan == found.student.plan


def test_what_is_inside_the_margin_is_left_alone(static: Case) -> None:
    healed = heal.apply(static.student, heal.Settings(margin=99.0), context(static.dev))
    assert healed.plan == static.student.plan
    assert healed.lineage[-1]["repaired"] == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": -1.0}, "margin must be at least 0"),
        ({"margin": float("nan")}, "margin must be at least 0"),
        ({"repairs": ("smooth",)}, "unknown repair 'smooth'; known: per_token, full"),
        ({"repairs": ()}, "unknown repair '.none.'"),
    ],
)
def test_impossible_settings_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        heal.Settings(**given)  # type: ignore[arg-type]  # wrong on purpose
