"""Pruning: its measures of importance, the steps, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.compress.prune import gradual, latency, layers, width
from attar.compress.prune.budget import cheapest
from attar.compress.prune.importance import comparable, find_importance, gates, known
from attar.compress.prune.importance.fisher import surprise
from attar.compress.prune.shrink import choose, shrink_layers
from attar.compress.prune.table import counts, measured
from attar.compress.prune.units import Part, multiplied, sizes
from attar.distill.batches import Batch
from attar.distill.encoder import LayerShape
from attar.distill.step import Context, find
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Targets
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, ModelError, SettingsError
from attar.runtime.tasks.base import Head
from tests.models import by_size, make_student, quiet, sentences

TRAIN = sentences(48, seed=7)
TEXTS = TRAIN.texts
PRUNERS = ("heads", "ffn", "width", "layers", "latency")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("prune") / "bert", layers=3)


def silenced(student: Student) -> Student:
    """Nothing reads the second of four heads of 8 of the middle layer, nor the sixth neuron of the first."""
    silent = student.copy()
    with torch.no_grad():
        silent.encoder.layers[1].output.weight[:, 8:16] = 0
        silent.encoder.layers[0].ffn_out.weight[:, 5] = 0
    return silent


def context(train: Examples = TRAIN, logits: Any = None, teacher: Path = Path("nowhere")) -> Context:
    """A teacher that says random things, or `logits`, and a clock that counts weights."""
    said = np.random.default_rng(0).standard_normal((len(train.texts), 2)).astype(np.float32)

    def supervision(student: Student, states: Sequence[str]) -> Supervision:
        encoded = student.encode(train.texts)
        targets = Targets(
            encoded, np.cumsum([0, *map(len, encoded.ids)]), {"logits": said if logits is None else logits}, {}
        )
        return supervise(student, student.tokenizer, targets, train.texts)

    nothing = Examples((), None, "nothing")
    return Context(
        train, nothing, train, supervision, lambda a, b: Ratio(1.0, 1.0, 1.0, 2), lambda s: 0.0,
        lambda s: (s.encode(TEXTS), s.outputs(s.encode(TEXTS))), teacher, quiet, by_size,
    )  # fmt: skip


# --- importance ---------------------------------------------------------------------------------------------------


def test_every_measure_is_a_file() -> None:
    assert known() == ["fisher", "gates", "magnitude", "taylor"]
    with pytest.raises(SettingsError, match=r"importance 'nothing' is unknown; known: fisher, gates"):
        find_importance("nothing")
    with pytest.raises(SettingsError, match="importance 'nothing' is unknown"):
        find("compress.prune.heads").Settings(importance="nothing")


@pytest.mark.parametrize("use", ["taylor", "fisher", "magnitude"])
def test_what_nothing_reads_has_no_importance(use: str, student: Student) -> None:
    silent, measure = silenced(student), find_importance(use).measure
    heads, ffn = (measure(silent, part, 16, 0.5, context()) for part in ("heads", "ffn"))
    assert [len(i) for i in heads] == [4] * 3 and [len(i) for i in ffn] == [64] * 3
    assert heads[1][1] == 0 and ffn[0][5] == 0
    assert heads[1][[0, 2, 3]].min() > 0 and heads[0].min() > 0
    (dimensions,) = measure(silent, "width", 16, 0.5, context())
    assert dimensions.shape == (32,) and dimensions.min() > 0


def test_taylor_is_the_gradient_by_a_multiplier(student: Student) -> None:
    """One batch: the difference quotient of the distance to the teacher, with a head a little larger or smaller."""
    where, texts = context(), 8
    found = find_importance("taylor").measure(student, "heads", texts, 0.5, where)
    taught, moved = where.supervision(student, ()), []
    batch = taught.batch(list(range(texts)))
    for scale in (1.01, 0.99):
        values = [torch.ones(4), torch.tensor([1.0, 1.0, scale, 1.0]), torch.ones(4)]
        with torch.no_grad(), multiplied(student.transformer, "heads", values):
            moved.append(taught.soft_loss(student.encoder(*batch.inputs), batch).item() * texts)
    assert float(found[1][2]) == pytest.approx(abs(moved[0] - moved[1]) / 0.02, rel=0.02)


def test_magnitude_by_hand(student: Student) -> None:
    found = find_importance("magnitude").measure(student, "ffn", 4, 0.5, context())
    matrix, seen = student.transformer.layers[0].get_submodule("ffn_out"), []
    handle = matrix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    for text in TEXTS[:4]:
        student.logits([text])
    handle.remove()
    wanted = torch.cat(seen).abs().mean(0) * matrix.weight.detach().norm(dim=0)
    assert torch.allclose(found[0], wanted, rtol=1e-4)


def test_fisher_of_a_classifier_is_that_of_its_own_answers() -> None:
    """E (p - y)(p - y)^T over y ~ p is diag(p) - p p^T."""
    p = torch.tensor([0.2, 0.5, 0.3])
    batch = Batch([0], torch.ones(1, 1), torch.ones(1, 1), None)
    found = p.log().expand(20_000, 3)
    drawn = surprise(Head("logits", 3, "first", "classes"), found, batch, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.T @ drawn / len(drawn), torch.diag(p) - torch.outer(p, p), atol=0.01)


@pytest.mark.parametrize("objective", ["labels", "value", "span"])
def test_surprise_has_the_mean_of_a_score(objective: Any) -> None:
    """The expected gradient of a log-likelihood under its own distribution is 0; padding has none at all."""
    span = objective == "span"
    mask = torch.ones(4000, 3)
    mask[:, 2] = 0
    found = torch.tensor([[0.3, -1.0], [1.0, 0.5], [9.0, 9.0]]).expand(4000, 3, 2) if span else torch.zeros(4000, 2)
    batch = Batch(list(range(4000)), mask.long(), mask, None)
    head = Head("x", 2, "tokens" if span else "first", objective)
    drawn = surprise(head, found, batch, torch.Generator().manual_seed(0))
    assert drawn.mean(0).abs().max() < 0.06 and drawn.shape == found.shape
    assert not span or float(drawn[:, 2].abs().max()) == 0


def test_gates_close_what_does_not_help(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that the student equals: the head that nothing reads is among the first to go, at no cost."""
    monkeypatch.setattr(gates, "STEPS", 40)
    monkeypatch.setattr(gates, "BATCH", 8)
    silent = silenced(student)
    where = context(logits=silent.logits(TEXTS).numpy())
    found = gates.measure(silent, "heads", 48, 0.5, where)
    assert all(float(i.min()) >= 0 and float(i.max()) <= 1 for i in found)
    assert 4 + 1 in torch.cat(found).argsort()[:3].tolist()


def test_gate_opens_as_often_as_it_should() -> None:
    logit = torch.tensor([-1.0, 0.0, 2.0])
    drawn = gates.gate(logit.expand(100_000, 3), torch.Generator().manual_seed(0))
    assert torch.allclose((drawn > 0).float().mean(0), gates.open_probability(logit), atol=0.01)
    assert drawn.min() == 0 and drawn.max() == 1
    # From where all start, 1 / (1 + exp(-2 - 2/3 log 11)) = 0.9734, in half of the 100 steps.
    targets = [gates.target(step, 0.4) for step in (0, 25, 50, 99)]
    assert targets == pytest.approx([0.9734, 0.6867, 0.4, 0.4], abs=1e-4)


def test_layers_are_compared_fairly() -> None:
    small = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert [k.tolist() for k in choose(comparable([small, 1000 * small], "taylor"), 0.5, 1)] == [[2, 3], [2, 3]]
    assert [k.tolist() for k in choose(comparable([small, 1000 * small], "gates"), 0.5, 1)] == [[3], [0, 1, 2, 3]]


@pytest.mark.parametrize("part", ["heads", "ffn", "width"])
def test_multipliers_of_one_change_nothing_and_leave_nothing(part: Part, student: Student) -> None:
    exact = student.logits(TEXTS)
    with multiplied(student.transformer, part, [torch.ones(n) for n in sizes(student.transformer, part)]):
        assert torch.equal(student.logits(TEXTS), exact)
    with multiplied(student.transformer, part, [torch.full((n,), 0.5) for n in sizes(student.transformer, part)]):
        assert (student.logits(TEXTS) - exact).abs().max() > 1e-3
    assert torch.equal(student.logits(TEXTS), exact)


# --- surgery ------------------------------------------------------------------------------------------------------


def test_constant_neurons_go_without_loss(student: Student) -> None:
    """Whatever they gave goes into the bias; a dead one, which gives 0, likewise."""
    constant = student.copy()
    with torch.no_grad():
        for layer in constant.encoder.layers:
            layer.ffn_in.weight[1::2] = 0
            layer.ffn_in.bias[1::4] = 0
    cut = shrink_layers(constant, TEXTS, None, [torch.arange(0, 64, 2)] * 3)
    assert (cut.logits(TEXTS) - constant.logits(TEXTS)).abs().max() < 1e-3


def test_constant_dimensions_go_without_loss(student: Student) -> None:
    """Dimensions that are 0 before every norm matter to its mean and variance, which the new scale makes good."""
    dead, gone = student.copy(), torch.arange(3, 32, 8)
    with torch.no_grad():
        for name, value in dead.encoder.named_parameters():
            if name.split(".")[0] in ("words", "positions", "types"):
                value[:, gone] = 0
            if name.endswith(("output.weight", "output.bias", "ffn_out.weight", "ffn_out.bias")):
                value[gone] = 0
            if name.endswith(("norm.weight", "norm.bias")):
                value[gone] = 0
    rest = torch.tensor([i for i in range(32) if i not in gone.tolist()])
    cut = width.narrow(dead, TEXTS, rest)
    plain = width.projected(dead, torch.eye(32)[:, rest])
    exact = dead.logits(TEXTS)
    assert cut.transformer.shape.hidden == 28
    assert all(torch.isfinite(value).all() for value in cut.encoder.state_dict().values())
    assert (cut.logits(TEXTS) - exact).abs().mean() < 0.3 * (exact - exact.mean(0)).abs().mean()
    assert (cut.logits(TEXTS) - exact).pow(2).mean() < 0.7 * (plain.logits(TEXTS) - exact).pow(2).mean()


def test_norm_regression_is_least_squares() -> None:
    random = torch.Generator().manual_seed(1)
    x, y = (torch.randn(200, 3, generator=random).double() for _ in range(2))
    x[:, 2] = 1.5  # never varies
    sums = torch.stack([torch.ones_like(x), x, y, x * x, x * y]).sum(1)
    scale, bias = width.fitted(sums, torch.tensor([1.0, 1.0, 7.0]), damp=0)
    for column in range(2):
        slope, intercept = np.polyfit(x[:, column].numpy(), y[:, column].numpy(), 1)
        assert (float(scale[column]), float(bias[column])) == pytest.approx((slope, intercept), abs=1e-5)
    assert float(scale[2]) == pytest.approx(7.0, rel=1e-3)
    assert float(bias[2]) == pytest.approx(float(y[:, 2].mean()) - 7.0 * 1.5, abs=1e-2)


def test_width_keeps_a_multiple_of_the_group(student: Student) -> None:
    cut = width.apply(student, width.Settings(keep=0.6, group=8), context())
    assert cut.transformer.shape.hidden == 16
    assert cut.encoder.words.weight.shape[1] == 16
    assert [s.heads for s in cut.transformer.shape.layers] == [4] * 3
    everything = width.apply(student, width.Settings(keep=1.0, group=8), context())
    assert everything.digest() == student.digest()


def test_an_embedder_keeps_its_width(tmp_path: Path) -> None:
    embedder = make_student(tmp_path / "e", kind="embeddings", layers=1)
    with pytest.raises(SettingsError, match="must be as wide as its teacher"):
        width.apply(embedder, width.Settings(group=8), context())


def test_the_layer_that_does_nothing_goes_first(student: Student) -> None:
    idle = student.copy()
    with torch.no_grad():
        for name in ("output", "ffn_out"):
            matrix = idle.encoder.layers[1].get_submodule(name)
            matrix.weight.zero_(), matrix.bias.zero_()
        # Its norms are left as they are: what they do to a state that was normed before is little.
        for norm in ("attention_norm", "ffn_norm"):
            idle.encoder.layers[1].get_submodule(norm).load_state_dict(idle.encoder.layers[0].ffn_norm.state_dict())
    cut = layers.apply(idle, layers.Settings(drop=1), context(logits=idle.logits(TEXTS).numpy()))
    assert cut.lineage[-1]["layers"] == [1, 3] and cut.transformer.depth == 2
    assert layers.apply(idle, layers.Settings(keep=0.01), context()).transformer.depth == 1


# --- to a latency -------------------------------------------------------------------------------------------------


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


# --- gradual ------------------------------------------------------------------------------------------------------


def test_gradual_reaches_its_share_in_stages(student: Student, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 3}')
    lessons = {"methods": ({"use": "soft_targets"},), "epochs": 0.3}
    settings = gradual.Settings("compress.prune.ffn", 0.25, 2, {"group": 8, "importance": "magnitude"}, lessons)
    result = gradual.apply(student, settings, context(teacher=tmp_path))
    done = result.lineage[-1]["done"]
    assert [entry["use"] for stage in done for entry in stage] == ["compress.prune.ffn", "distill.distil"] * 2
    neurons = [sum(stage[0]["ffn"]) for stage in done]
    assert abs(neurons[0] - 96) <= 12 and abs(neurons[1] - 48) <= 18
    assert sum(s.ffn for s in result.transformer.shape.layers) == neurons[1]


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(name: str, value: float, student: Student) -> None:
    broken, step = student.copy(), find(f"compress.prune.{name}")
    with torch.no_grad():
        broken.encoder.layers[1].ffn_in.weight[3, 4] = value
    with pytest.raises(ModelError, match=r"layers\.1\.ffn_in\.weight holds NaN or infinite"):
        step.apply(broken, step.Settings(), context())


@pytest.mark.parametrize("name", PRUNERS)
def test_one_text_is_enough_and_none_is_not(name: str, student: Student) -> None:
    step = find(f"compress.prune.{name}")
    given = {"width": {"group": 8}, "latency": {"group": 8, "levels": 3}, "ffn": {"group": 8}}.get(name, {})
    cut = step.apply(student, step.Settings(**given), context(Examples(TEXTS[:1], None, "one")))
    assert all(torch.isfinite(value).all() for value in cut.encoder.state_dict().values())
    assert torch.isfinite(cut.logits(TEXTS)).all()
    with pytest.raises(DataError, match="pruning needs a training text"):
        step.apply(student, step.Settings(**given), context(Examples((), None, "none")))


def test_a_layer_keeps_its_last_head(student: Student) -> None:
    with pytest.raises(
        SettingsError, match=r"lose the last of its heads; drop whole layers by compress\.prune\.layers"
    ):
        shrink_layers(student, TEXTS, [torch.arange(4), torch.arange(0), torch.arange(4)], None)
    heads = find("compress.prune.heads")
    assert heads.apply(student, heads.Settings(keep=0.01), context()).lineage[-1]["heads"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("step", "given", "said"),
    [
        ("latency", {"speedup": 1.0}, "speedup must be above 1, not 1.0"),
        ("latency", {"milliseconds": -1.0}, "milliseconds above 0"),
        ("latency", {"levels": 1}, "levels must be at least 2, not 1"),
        ("latency", {"batch": 0}, "batch must be at least 1, not 0"),
        ("ffn", {"group": 0}, "group must be at least 1, not 0"),
        ("width", {"group": 0}, "group must be at least 1, not 0"),
        ("width", {"keep": 0.0}, "keep must be above 0"),
        ("layers", {"keep": 1.5}, "keep must be above 0"),
        ("layers", {"drop": -1}, "drop must be a number of layers"),
        ("gradual", {"stages": 0}, "stages must be at least 1"),
        ("gradual", {"use": "compress.vocabulary"}, "repeats a step of compress/prune/"),
        ("gradual", {"use": "compress.prune.gradual"}, "repeats a step of compress/prune/"),
        ("gradual", {"use": "compress.prune.latency"}, "has no setting 'keep'"),
        ("gradual", {"prune": {"keep": 0.3}}, "leave it out"),
        ("gradual", {"prune": {"nothing": 1}}, "has no setting 'nothing'"),
        ("gradual", {"distil": {"layers": (1,)}}, "start every stage anew"),
        ("gradual", {"distil": {"nothing": 1}}, "distil has no setting 'nothing'"),
    ],
)
def test_impossible_settings(step: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        find(f"compress.prune.{step}").Settings(**given)


def test_what_the_student_does_not_have(student: Student) -> None:
    with pytest.raises(SettingsError, match="drop = 3 leaves none of the 3 layers; at most 2 can go"):
        layers.apply(student, layers.Settings(drop=3), context())
    with pytest.raises(SettingsError, match="tokens must be at most the student's 48 positions, not 49"):
        latency.apply(student, latency.Settings(tokens=49), context())
