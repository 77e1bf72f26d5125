"""Blame names planted outliers; the healer brings the answers back, or says what stops it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attar.compress import blame, heal
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.smooth import readers
from attar.compress.quantize.static import calibrate, shared
from attar.compress.statistics import matrices
from attar.distill.step import Context
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.regression import Regression
from benchmarks.blame import Case, case, context, plant, random_student
from tests.compress import pruning
from tests.models import make_student, sentences

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
    found = heal.repairs(static.student, {"full": heal.full}, work, reference)
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


def loud(seed: int, norm: str) -> Case:
    """Static scales, and one channel of a norm 120 times as large; only in what reads it as much smaller."""
    quiet = replace(random_student(seed, 3), plan=None)
    with torch.no_grad():
        part = quiet.transformer.get_submodule(norm)
        part.weight[3] *= 120
        part.bias[3] *= 120
        for name, matrix in matrices(quiet.transformer).items():
            if name in readers(quiet.transformer)[norm]:
                matrix.weight[:, 3] /= 120
    random = np.random.default_rng(seed)
    texts = tuple(" ".join(f"w{w}" for w in random.integers(0, 400, random.integers(2, 9))) for _ in range(200))
    with torch.no_grad():
        quiet.encoder.heads["logits"].classifier.bias -= quiet.logits(texts).mean(0)
    sure = quiet.logits(texts).topk(2).values.diff().flatten()
    texts = tuple(texts[i] for i in sure.argsort()[:100].tolist())
    own = tuple(answer.label for answer in quiet.answer(texts))
    plan = QuantPlan(shared(calibrate(quiet, texts[:32], "minmax")))
    return Case(replace(quiet, plan=plan.to_json()), (), Examples(texts, own, "its own answers"))


def test_a_loud_norm_is_smoothed_for_all_that_read_it() -> None:
    found = loud(0, "layers.0.ffn_norm")
    work = context(found.dev)
    healed = heal.apply(found.student, heal.Settings(margin=2.0, repairs=("smooth",)), work)
    facts, plan = healed.lineage[-1], blame.plan_of(healed)
    assert 100 - work.score(found.student) > 2.0 and facts["inside"], facts
    assert "layers.0.ffn_norm" in plan.smooth and not plan.full
    assert plan.scales.keys() == blame.plan_of(found.student).scales.keys(), "all of it stays static"
    assert {how for hows in facts["repaired"].values() for how in hows} == {"smooth"}
    before = blame.plan_of(found.student).scales["layers.1.key"]
    assert plan.scales["layers.1.key"] == plan.scales["layers.1.value"] < before / 2


def test_smoothing_needs_texts(static: Case) -> None:
    work = replace(context(static.dev), train=Examples(static.dev.texts[:1], None, "one"))
    with pytest.raises(SettingsError, match=r"smooth looks at training texts, and there are 1: .*per_token"):
        heal.apply(static.student, heal.Settings(margin=0.0), work)


RECOVER = {"epochs": 12, "learning_rate": 1e-3, "batch_size": 16, "methods": ({"use": "soft_targets"},)}


@pytest.fixture(scope="module")
def rough(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Context]:
    """Scales 16 times too coarse in one layer, a teacher with the student's own outputs, and its answers as labels."""
    folder = tmp_path_factory.mktemp("heal") / "teacher"
    student = make_student(folder)
    texts = sentences(48, seed=7).texts
    coarse = {name: 16 * scale for name, scale in shared(calibrate(student, texts)).items() if "0." in name}
    plan = QuantPlan(coarse, shifts={"layers.0.output": (0.0,) * 32})
    own = Examples(texts, tuple(answer.label for answer in student.answer(texts)), "its own answers")
    teaching = pruning.context(own, student.logits(texts).numpy(), folder)
    return replace(student, plan=plan.to_json()), replace(
        context(own), supervision=teaching.supervision, teacher=folder
    )


def test_training_wins_back_what_no_repair_does(rough: tuple[Student, Context]) -> None:
    student, work = rough
    before, few = student.digest(), {"margin": 10.0, "repairs": ("smooth",), "least_speedup": 9.0}
    stopped = heal.apply(student, heal.Settings(**few), work).lineage[-1]
    assert stopped["loss_points"] > 15 and "recovered_points" not in stopped
    healed = heal.apply(student, heal.Settings(**few, recover=RECOVER), work)
    facts = healed.lineage[-1]
    assert student.digest() == before
    won = stopped["loss_points"] - facts["loss_points"]
    assert won > 5 and facts["recovered_points"] == pytest.approx(won, abs=2e-3)
    assert facts["inside"] and not facts["limit"]
    assert 100 - work.score(healed) == pytest.approx(facts["loss_points"], abs=1e-3)
    assert blame.plan_of(healed).scales == blame.plan_of(student).scales, "it learnt under the scales that ship"


def test_a_recovery_that_wins_nothing_is_said_and_left_out(rough: tuple[Student, Context]) -> None:
    student, work = rough
    settings = heal.Settings(10.0, ("smooth",), 9.0, {**RECOVER, "learning_rate": 0.0})
    stopped = heal.apply(student, settings, work)
    assert stopped.lineage[-1]["limit"].endswith("x as fast as in fp32, and 12 epochs of recovery won 0.00 points")
    assert stopped.plan == student.plan


def test_only_int8_is_recovered(static: Case) -> None:
    stored = replace(static.student, plan=QuantPlan(kind="weights").to_json())
    with pytest.raises(SettingsError, match="recover trains under the rounding of int8, not of int8 weights"):
        heal.apply(stored, heal.Settings(recover={"epochs": 1}), context(static.dev))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": -1.0}, "margin must be at least 0"),
        ({"margin": float("nan")}, "margin must be at least 0"),
        ({"repairs": ("polish",)}, "unknown repair 'polish'; known: per_token, smooth, full"),
        ({"repairs": ()}, "unknown repair '.none.'"),
        ({"recover": {"bits": 7}}, "bits in recover would contradict the plan"),
        ({"recover": {"epoch": 1}}, "compress.heal: recover has no setting 'epoch'; known: bits, methods, epochs"),
    ],
)
def test_impossible_settings_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        heal.Settings(**given)  # type: ignore[arg-type]  # wrong on purpose
