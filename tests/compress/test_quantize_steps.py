"""The steps of quantization as a user meets them: outputs, instruction sets, bad input, training under rounding."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar.compress.quantize import aware, half, int8, weights
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.smooth import readers
from attar.distill.encoder import MATRICES
from attar.distill.student import Student
from attar.export import parity
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.runtime.errors import ModelError, SettingsError
from tests.models import corpus, make_student

TEXTS = corpus("text-classification", 40, seed=3).texts
ALL = tuple(f"layers.{i}.{name}" for i in range(2) for name in MATRICES)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("quantize") / "m", hidden=64, ffn=96)


def exported(student: Student, plan: QuantPlan | None) -> Any:
    """Raw outputs of the exported bytes."""
    planned = replace(student, plan=None if plan is None else plan.to_json())
    return parity.flat(in_memory(planned, threads=1).outputs(student.encode(TEXTS)))["logits"]


def worst(student: Student, plan: QuantPlan) -> float:
    return float(np.abs(exported(student, plan) - exported(student, None)).max())


# --- int8 -----------------------------------------------------------------------------------------------------------


def test_smoothing_leaves_fp32_outputs_as_they_were(student: Student) -> None:
    plan = int8.planned("per_token", student, TEXTS, int8.Settings(smooth=0.5))
    assert plan.smooth.keys() == readers(student.transformer).keys()
    # With every matrix in fp32 all that is left of the plan are the divided norms.
    assert worst(student, replace(plan, full=ALL, words="fp32")) < 1e-5


def test_smoothing_rescues_outlier_channels(student: Student) -> None:
    loud = student.copy()
    with torch.no_grad():
        for layer in loud.transformer.layers:
            layer.attention_norm.weight[3] *= 60
            layer.ffn_in.weight[:, 3] /= 60
    others = tuple(name for name in ALL if not name.endswith("ffn_in"))
    settings = [int8.Settings(bits=8, calibration="minmax", smooth=alpha) for alpha in (0.0, 0.5)]
    plans = [replace(int8.planned("static", loud, TEXTS, s), full=others, words="fp32") for s in settings]
    losses = [worst(loud, plan) for plan in plans]
    assert losses[1] < losses[0] / 2


def test_bias_correction_centres_the_error(student: Student) -> None:
    rough = int8.Settings(schemes=("static",), bits=7, calibration="percentile")
    found = []
    for correct in (False, True):
        plan = int8.planned("static", student, TEXTS, replace(rough, correct=correct))
        assert bool(plan.shifts) == correct
        found.append(np.abs((exported(student, plan) - exported(student, None)).mean(0)).max())
    assert found[1] < found[0]


@pytest.mark.parametrize("calibration", ["mse", "minmax", "percentile", "entropy"])
def test_every_calibration_keeps_the_answers(calibration: str, student: Student) -> None:
    settings = int8.Settings(calibration=calibration, bits=8)
    plan = int8.planned("static", student, TEXTS, settings)
    same = exported(student, plan).argmax(1) == exported(student, None).argmax(1)
    assert same.mean() > 0.8


def test_a_row_of_zeros_is_zero(student: Student) -> None:
    """A norm that is dead for every channel: the product of its rows is nothing, not NaN."""
    dead = student.copy()
    with torch.no_grad():
        dead.transformer.layers[0].attention_norm.weight.zero_()
        dead.transformer.layers[0].attention_norm.bias.zero_()
        dead.transformer.layers[1].ffn_in.weight[5] = 0
    assert np.isfinite(exported(dead, QuantPlan())).all() and worst(dead, QuantPlan()) < 0.2


@pytest.mark.parametrize(
    ("machine", "sets", "bits"),
    [
        ("x86_64", {"avx2", "avx512f"}, 7), ("x86_64", {"avx2", "avx512_vnni"}, 8), ("AMD64", {"avx_vnni"}, 8),
        ("AMD64", set(), 7), ("aarch64", {"asimddp"}, 8), ("aarch64", set(), 8),
    ],
)  # fmt: skip
def test_bits_follow_the_processor(machine: str, sets: set[str], bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(int8, "instruction_sets", lambda: frozenset(sets))
    assert int8.bits_of("auto") == bits
    assert int8.bits_of(8) == 8  # said outright: for another machine than this one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 6}, "bits must be 7 or 8, not 6"), ({"calibration": "best"}, "known: mse, minmax, percentile"),
        ({"smooth": 1.5}, "smooth must be from 0 to 1"), ({"bits": "most"}, "bits must be 7 or 8"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        int8.Settings(**settings)


def test_matrices_may_read_the_same_values_by_scales_of_their_own(student: Student) -> None:
    scales = dict(int8.planned("static", student, TEXTS, int8.Settings()).scales)
    one = QuantPlan(scales, words="fp32")
    scales["layers.0.key"] *= 1.5
    del scales["layers.0.value"]
    assert 0 < worst(student, QuantPlan(scales, words="fp32")) < 2 * worst(student, one)


# --- what is only stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "size", "error"),
    [
        # Random weights, normal: half a step is 1/254 of the largest at 8 bits, 1/14 at 4, 2^-11 and 2^-8 of any value.
        (QuantPlan(kind="weights", words="fp32"), 0.75, 0.1),
        (QuantPlan(kind="weights", bits=4, words="fp32"), 0.7, 1.5),
        (QuantPlan(kind="fp16", words="fp32"), 0.56, 0.01),
        (QuantPlan(kind="bf16", words="fp32"), 0.56, 0.08),
    ],
)
def test_stored_weights_are_smaller_and_close(plan: QuantPlan, size: float, error: float, student: Student) -> None:
    stored = replace(student, plan=plan.to_json())
    assert len(to_onnx(stored)) < size * len(to_onnx(student))
    assert 0 < worst(student, plan) < error


def test_fp16_cannot_hold_everything(student: Student) -> None:
    large = student.copy()
    with torch.no_grad():
        large.transformer.layers[1].ffn_in.weight[0, 0] = 1e5
    with pytest.raises(SettingsError, match=r'layers\.1\.ffn_in\.weight has values above 65504.*kind = "bf16"'):
        half.check_range(large.encoder)
    with pytest.raises(SettingsError, match="kind must be one of fp16, bf16"):
        half.Settings(kind="fp8")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(SettingsError, match="bits must be 4 or 8, not 3"):
        weights.Settings(bits=3)
    with pytest.raises(SettingsError, match="block must be at least 1"):
        weights.Settings(block=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float, student: Student) -> None:
    broken = student.copy()
    with torch.no_grad():
        broken.transformer.layers[0].value.weight[0, :3] = value
    with pytest.raises(ModelError, match=r"layers\.0\.value\.weight holds 3 of 4096 numbers"):
        int8.apply(broken, int8.Settings(), SimpleNamespace())  # type: ignore[arg-type]  # refused before it is used


# --- training under rounding ----------------------------------------------------------------------------------------


def a_plan(how: str, student: Student) -> QuantPlan:
    """By 7 or 8 bits a token; or with scales, divisors and a matrix and the words in fp32."""
    if how != "static":
        return QuantPlan(bits=int(how))
    plan = int8.planned("static", student, TEXTS, int8.Settings(bits=8, smooth=0.5))
    freed = {name: scale for name, scale in plan.scales.items() if not name.endswith("0.output")}
    return replace(plan, scales=freed, full=("layers.0.ffn_out",), words="fp32")


@pytest.mark.parametrize("family", ["bert", "mpnet"])
@pytest.mark.parametrize("how", ["7", "8", "static"])
def test_training_sees_what_export_computes(how: str, family: str, tmp_path: Path) -> None:
    """A value at the edge of two levels may fall to either side, so a few outputs may differ by such a step."""
    student = make_student(tmp_path / "m", family, hidden=64, ffn=96)
    plan = a_plan(how, student)
    seen = parity.flat(aware.rounded(student, plan).outputs(student.encode(TEXTS)))["logits"]
    computed, plain = exported(student, plan), exported(student, None)
    lost = np.abs(computed - plain).mean()
    assert np.abs(seen - computed).mean() < lost / 20
    assert np.median(np.abs(seen - computed)) < 1e-4


def test_gradients_pass_straight_through(student: Student) -> None:
    copy = aware.rounded(student, QuantPlan())
    encoder = copy.transformer.train()
    batch = student.encode(TEXTS[:4])
    ids = torch.tensor([row[:5] for row in batch.ids])
    encoder(ids, torch.ones_like(ids)).heads["logits"].sum().backward()
    gradients = [p.grad for name, p in encoder.named_parameters() if "original" in name and "words" not in name]
    assert len(gradients) == 12 and all(g is not None and g.abs().sum() > 0 for g in gradients)
    kept = aware.plain(encoder, student).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in student.encoder.state_dict().items())
