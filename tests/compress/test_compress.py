"""The mathematics of pruning and quantization, against other ways to compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.compress.prune.shrink import choose, shrink_layers
from attar.compress.quantize import int8
from attar.compress.quantize.calibration import mse
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.static import calibrate, shared
from attar.compress.statistics import matrices, observe, refit, second_moments
from attar.distill.student import Student
from attar.export.onnx.words import quantize_columns
from attar.runtime.errors import SettingsError
from tests.compress.samples import correlated, moment
from tests.models import make_student, sentences

TEXTS = sentences(48, seed=7).texts


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("compress") / "bert", layers=3)


# --- pruning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_refit_is_least_squares(seed: int) -> None:
    x, kept = correlated(200, 12, seed), torch.tensor([0, 2, 3, 7, 8, 11])
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(seed)).double()
    golden = np.linalg.lstsq(x[:, kept].numpy(), (x @ weight.T).numpy(), rcond=None)[0].T
    found = refit(weight, moment(x), kept, damp=1e-12)
    assert np.abs(found.numpy() - golden).max() < 1e-6
    # The damping that is used costs little, and far less than no refit at all.
    error = [float(((x @ weight.T) - x[:, kept] @ w.T).pow(2).mean()) for w in (found, refit(weight, moment(x), kept))]
    without = float(((x @ weight.T) - x[:, kept] @ weight[:, kept].T).pow(2).mean())
    assert error[0] <= error[1] <= 0.5 * (error[0] + without)


def test_refit_keeps_what_needs_no_correction() -> None:
    """Removing inputs that had no weight, or that never fired, leaves the other columns as they were."""
    x, kept = correlated(50, 8), torch.tensor([0, 1, 4, 5, 6])
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    silent = weight.clone()
    silent[:, [2, 3, 7]] = 0
    assert (refit(silent, moment(x), kept) - weight[:, kept]).abs().max() < 1e-5
    x[:, [2, 3, 7]] = 0
    assert (refit(weight, moment(x), kept) - weight[:, kept]).abs().max() < 1e-5


def test_removing_silent_heads_changes_nothing(student: Student) -> None:
    silent = student.copy()
    with torch.no_grad():
        for layer in silent.encoder.layers:
            layer.output.weight[:, 8:16] = 0  # the second of four heads of 8
    kept = [torch.tensor([0, 2, 3])] * 3
    cut = shrink_layers(silent, TEXTS, kept, None)
    assert [s.heads for s in cut.encoder.shape.layers] == [3, 3, 3]
    assert cut.encoder.layers[0].query.weight.shape == (24, 32)
    assert (cut.logits(TEXTS) - silent.logits(TEXTS)).abs().max() < 1e-5


def test_removing_silent_neurons_changes_nothing(student: Student) -> None:
    silent, kept = student.copy(), torch.arange(0, 64, 2)
    with torch.no_grad():
        for layer in silent.encoder.layers:
            layer.ffn_out.weight[:, 1::2] = 0
    cut = shrink_layers(silent, TEXTS, None, [kept] * 3)
    assert (cut.logits(TEXTS) - silent.logits(TEXTS)).abs().max() < 1e-5


def test_keeping_all_units_changes_nothing(student: Student) -> None:
    assert shrink_layers(student, TEXTS, [torch.arange(4)] * 3, None).digest() == student.digest()
    assert shrink_layers(student, TEXTS, None, [torch.arange(64)] * 3).digest() == student.digest()


def test_the_refit_helps(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [torch.arange(40)] * 3
    exact = student.logits(TEXTS)
    refitted = (shrink_layers(student, TEXTS, None, kept).logits(TEXTS) - exact).pow(2).mean()
    monkeypatch.setattr("attar.compress.prune.shrink.refit", lambda weight, moment, kept: weight[:, kept])
    plain = (shrink_layers(student, TEXTS, None, kept).logits(TEXTS) - exact).pow(2).mean()
    assert refitted < 0.7 * plain


importances = st.lists(
    st.lists(st.floats(0, 100, width=32), min_size=8, max_size=8).map(torch.tensor), min_size=1, max_size=5
)


@given(importances, st.floats(0.01, 1), st.sampled_from([1, 2, 4, 8]))
def test_choose_keeps_the_asked_fraction(importance: list[torch.Tensor], keep: float, group: int) -> None:
    kept = choose(importance, keep, group)
    wanted = max(1, round(keep * 8 * len(importance)))
    for units, layer in zip(kept, importance, strict=True):
        assert group <= len(units) <= 8 and len(units) % group == 0
        assert units.tolist() == sorted(set(units.tolist()))
        left_out = [v for i, v in enumerate(layer.tolist()) if i not in units.tolist()]
        assert max(left_out, default=0.0) <= min(layer[units].tolist())
    # Rounding moves a layer by half a group, and by a whole one where it would have lost all.
    assert abs(sum(map(len, kept)) - wanted) <= group * len(importance)
    if group == 1:
        assert wanted <= sum(map(len, kept)) <= wanted + len(importance) - 1


def test_choose_with_equal_importance_still_prunes() -> None:
    assert [len(k) for k in choose([torch.zeros(8), torch.zeros(8)], 0.5, 1)] != [8, 8]
    assert sum(len(k) for k in choose([torch.ones(8)] * 2, 0.25, 1)) <= 5


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, float("nan")])
def test_choose_refuses_impossible_fractions(keep: float) -> None:
    with pytest.raises(SettingsError, match="keep must be above 0 and at most 1"):
        choose([torch.ones(4)], keep, 1)


# --- statistics ---------------------------------------------------------------------------------------------------


def test_second_moments_ignore_padding(student: Student) -> None:
    names = list(matrices(student.encoder))
    assert len(names) == 18
    together = second_moments(student, TEXTS, names)
    total = dict.fromkeys(names, 0)
    sums = {n: torch.zeros_like(m) for n, m in together.items()}

    def see(name: str, x: torch.Tensor) -> None:
        sums[name] += x.double().T @ x.double()
        total[name] += len(x)

    for text in TEXTS:  # alone, a text has no padding
        observe(student, [text], see)
    for name, found in together.items():
        assert (found - sums[name] / total[name]).abs().max() < 1e-4 * found.abs().max()
    assert total["layers.0.query"] == sum(map(len, student.encode(TEXTS).ids))
    assert total["layers.2.query"] == len(TEXTS)  # the last layer computes the first row only
    assert all(not m._forward_pre_hooks for m in student.encoder.modules())


# --- quantization -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.sampled_from([7, 8]), st.floats(1e-4, 1e4))
def test_quantize_columns_is_off_by_half_a_step(seed: int, bits: int, size: float) -> None:
    weight = (np.random.default_rng(seed).standard_normal((9, 5)) * size).astype(np.float32)
    weight[:, 2] = 0
    values, scale = quantize_columns(weight, bits)
    assert values.dtype == np.int8 and scale.dtype == np.float32
    assert np.abs(values).max() == 2 ** (bits - 1) - 1  # symmetric: -128 is never used
    assert (np.abs(values * scale - weight) <= scale / 2 * (1 + 1e-4)).all()
    assert (values[:, 2] == 0).all()


@given(st.integers(0, 10_000), st.floats(1, 300))
def test_mse_scale_is_the_best_of_its_grid(seed: int, outlier: float) -> None:
    values = np.random.default_rng(seed).standard_normal(400).astype(np.float32)
    values[0] = outlier

    def error(scale: float) -> float:
        return float(np.mean((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2))

    found, top = mse(torch.from_numpy(values)), float(np.abs(values).max())
    assert 0 < found <= top / 127 * (1 + 1e-6)
    assert error(found) <= min(error(top * i / 40 / 127) for i in range(1, 41)) * (1 + 1e-4)


def test_mse_scale_of_exact_values_is_exact() -> None:
    assert mse(torch.arange(-127, 128) * 0.5) == pytest.approx(0.5)
    assert mse(torch.zeros(10)) > 0


def test_calibration_is_deterministic_and_shared(student: Student) -> None:
    scales = calibrate(student, TEXTS)
    assert scales == calibrate(student, TEXTS)
    assert scales.keys() == matrices(student.encoder).keys()
    together = shared(scales)
    for i in range(3):
        q, k, v = (together[f"layers.{i}.{n}"] for n in ("query", "key", "value"))
        assert q == k == v == max(scales[f"layers.{i}.{n}"] for n in ("query", "key", "value"))
        assert together[f"layers.{i}.ffn_in"] == scales[f"layers.{i}.ffn_in"]


def test_static_needs_texts(student: Student) -> None:
    with pytest.raises(SettingsError, match=r"schemes = \["):
        calibrate(student, ())


def test_plan_round_trip(student: Student) -> None:
    plan = QuantPlan({"layers.0.query": 0.25}, words="fp32", bits=7)
    assert QuantPlan.from_json(plan.to_json()) == plan
    assert QuantPlan.from_json(None) is None
    assert QuantPlan().scheme == "int8 per token"
    assert plan.scheme.startswith("int8") and "static" in plan.scheme
    assert replace(student, plan=plan.to_json()).digest() != student.digest()
    with pytest.raises(SettingsError, match="bits must be 7 or 8, not 4"):
        QuantPlan.from_json(plan.to_json() | {"bits": 4})


@pytest.mark.parametrize("settings", [{"schemes": ("dynamic",)}, {"schemes": ()}, {"bits": 4}])
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"known: per_token, .*static|bits must be"):
        int8.Settings(**settings)  # type: ignore[arg-type]


def test_every_family_is_calibrated_by_the_same_names(tmp_path: Path) -> None:
    for family in ("distilbert", "electra"):
        other = make_student(tmp_path / family, family, layers=1)
        assert set(calibrate(other, TEXTS[:8])) == {
            f"layers.0.{n}" for n in ("query", "key", "value", "output", "ffn_in", "ffn_out")
        }
