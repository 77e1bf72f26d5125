"""The surgery of pruning, gradual pruning, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.compress.prune import gradual, latency, layers, width
from attar.compress.prune.shrink import shrink_layers
from attar.distill.step import find
from attar.distill.student import Student
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, ModelError, SettingsError
from tests.compress.pruning import TEXTS, context
from tests.models import make_student

PRUNERS = ("heads", "ffn", "width", "layers", "latency")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("prune") / "bert", layers=3)


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


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRUNERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_weights_are_named(name: str, value: float, student: Student) -> None:
    broken, step = student.copy(), find(f"compress.prune.{name}")
    with torch.no_grad():
        broken.encoder.layers[1].ffn_in.weight[3, 4] = value
    with pytest.raises(ModelError, match=r"layers\.1\.ffn_in\.weight holds \d+ of"):
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
