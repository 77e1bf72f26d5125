"""The mathematics of quantization: scales, rows, equalization and bias correction, against hand calculations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector

from attar.compress.quantize.bias import correction, corrections
from attar.compress.quantize.calibration import METHODS, divergence, entropy, minmax, mse, percentile
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.rows import EITHER, GELU, RELU, Rows, round_columns, round_rows, rows_of, scale_rows
from attar.compress.quantize.smooth import divisors, equalized
from attar.compress.quantize.static import calibrate
from attar.distill.student import Student
from attar.export.onnx.product import quantize_blocks
from attar.export.onnx.words import quantize_columns
from attar.runtime.errors import SettingsError
from tests.models import corpus, make_student

# --- calibration ----------------------------------------------------------------------------------------------------


def test_minmax_clips_nothing_and_percentile_the_rarest() -> None:
    values = torch.arange(-99, 1001).float()  # 1,100 values; the largest magnitude is 1000
    assert minmax(values) == pytest.approx(1000 / 127)
    # Sorted magnitudes: 0; 1, 1, 2, 2 .. 99, 99; 100 .. 1000. The one with 90 % of 1,100 before it has rank 990: 891.
    assert percentile(values, 90) == pytest.approx(891 / 127)
    assert percentile(values, 100) == pytest.approx(1000 / 127)


def test_mse_clips_a_lone_outlier_where_that_rounds_the_others_better() -> None:
    values = torch.cat([torch.linspace(-1, 1, 20001), torch.tensor([2.0])])
    # Kept whole, the step is 2 / 127 and the mean squared error of uniform values step^2 / 12 = 2.07e-5. Clipped at 1,
    # it is 0.52e-5 for them, and 1^2 / 20002 = 5.0e-5 for the outlier; at c > 1: c^2 * 0.517e-5 + (2 - c)^2 * 5.0e-5,
    # least where c * 0.517 = (2 - c) * 5.0: c = 1.81, of 40 steps of 0.05 the next is 1.80.
    assert mse(values) * 127 == pytest.approx(1.80, abs=0.051)
    assert mse(torch.linspace(-1, 1, 20001)) * 127 == pytest.approx(1.0, abs=0.03)


def test_entropy_divergence_by_hand() -> None:
    # Four bins in two groups. All kept: groups (4, 0) and (2, 2): each spread over the bins that are not empty, so
    # the candidate is (4, 0, 2, 2) again and nothing is lost.
    assert divergence(torch.tensor([4.0, 0, 2, 2], dtype=torch.float64), 4, 2) == pytest.approx(0, abs=1e-12)
    # (3, 1, 2, 2): the first group becomes (2, 2), so KL = 3/8 ln(3/2) + 1/8 ln(1/2).
    found = divergence(torch.tensor([3.0, 1, 2, 2], dtype=torch.float64), 4, 2)
    assert found == pytest.approx(3 / 8 * math.log(3 / 2) + 1 / 8 * math.log(1 / 2))
    # Clipped after two bins, of a group each: the reference is (3, 5), the candidate (3, 1) of 4.
    found = divergence(torch.tensor([3.0, 1, 2, 2], dtype=torch.float64), 2, 2)
    assert found == pytest.approx(3 / 8 * math.log(3 / 8 / (3 / 4)) + 5 / 8 * math.log(5 / 8 / (1 / 4)))


def test_entropy_ignores_far_outliers_and_keeps_what_is_even() -> None:
    generator = torch.Generator().manual_seed(0)
    bulk = torch.randn(50_000, generator=generator)
    assert entropy(torch.cat([bulk, torch.tensor([60.0])])) * 127 < 10
    assert entropy(torch.rand(50_000, generator=generator)) * 127 > 0.9


def test_entropy_agrees_with_the_calibrator_of_onnxruntime() -> None:
    values = torch.randn(60_000, generator=torch.Generator().manual_seed(1)).numpy()
    collector = HistogramCollector("entropy", True, 512, 128, 99.99, "same")
    edges = np.linspace(-np.abs(values).max(), np.abs(values).max(), 1025)
    found = collector.get_entropy_threshold((np.histogram(values, edges)[0], edges, values.min(), values.max(), 0), 128)
    # Theirs looks at both signs together and at every bin; both cut a normal distribution nearly at the same place.
    assert entropy(torch.from_numpy(values), bins=512) * 127 == pytest.approx(float(found[1]), rel=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_scale(method: str) -> None:
    assert 0 < METHODS[method](torch.zeros(50)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5)
@given(st.integers(0, 99), st.floats(0.01, 100))
def test_scales_follow_the_unit_and_never_exceed_minmax(method: str, seed: int, unit: float) -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(seed))
    scale = METHODS[method](values)
    assert 0 < scale <= minmax(values) * 1.0001
    assert METHODS[method](values * unit) == pytest.approx(scale * unit, rel=0.02)


def test_calibration_needs_texts(student: Student) -> None:
    with pytest.raises(SettingsError, match=r'there are none.*schemes = \["per_token"\]'):
        calibrate(student, ())
    with pytest.raises(SettingsError, match="one text says little"):
        calibrate(student, ("a film",))


# --- rows and columns -----------------------------------------------------------------------------------------------


def test_rows_by_hand() -> None:
    x = torch.tensor([[1.27, -0.5, 0.014], [0.0, 0.0, 0.0]])
    assert scale_rows(x).flatten().tolist() == pytest.approx([0.01, 0.0])
    assert torch.allclose(round_rows(x), torch.tensor([[1.27, -0.5, 0.01], [0.0, 0.0, 0.0]]))
    # Relu has all 255 levels above 0; Gelu 223, and 32 for at least 0.17 below.
    assert scale_rows(torch.tensor([[0.0, 2.55]]), RELU).item() == pytest.approx(0.01)
    assert scale_rows(torch.tensor([[-0.17, 2.23]]), GELU).item() == pytest.approx(0.01)
    assert scale_rows(torch.tensor([[-0.17, 0.1]]), GELU).item() == pytest.approx(0.17 / 32)
    assert rows_of("layers.0.ffn_out.down", "gelu") == GELU and rows_of("layers.0.ffn_out.up", "gelu") == EITHER


@pytest.mark.parametrize("rows", [EITHER, RELU, GELU])
@settings(max_examples=25)
@given(st.integers(0, 999))
def test_rounding_is_within_half_a_step(rows: Rows, seed: int) -> None:
    x = 3 * torch.randn(5, 17, generator=torch.Generator().manual_seed(seed))
    x = {EITHER: x, RELU: torch.relu(x), GELU: torch.nn.functional.gelu(x)}[rows]
    assert ((round_rows(x, rows) - x).abs() <= 0.501 * scale_rows(x, rows) + 1e-7).all()


@pytest.mark.parametrize("bits", [7, 8])
def test_columns_are_what_export_writes(bits: int) -> None:
    weight = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))
    weight[3] = 0  # a dead output
    values, scale = quantize_columns(weight.T.numpy(), bits)
    assert np.allclose(round_columns(weight, bits).numpy(), (values * scale).T, atol=1e-7)


def test_blocks_by_hand() -> None:
    weight = np.array([[7.0, 0], [-3.4, 0], [70, 0]], np.float32)
    values, scales = quantize_blocks(weight, 2, 4)
    assert values.tolist() == [[7, 0], [-3, 0], [7, 0]]
    assert scales[:, 0].tolist() == pytest.approx([1.0, 10.0])


# --- equalization and bias correction -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("quantize") / "m")


def test_divisors_by_hand() -> None:
    found = divisors(torch.tensor([16.0, 1, 0, 4]), torch.tensor([1.0, 4, 2, 0]), 0.5)
    assert found.tolist() == pytest.approx([4.0, 0.5, 1.0, 1.0])  # 4 / 1, 1 / 2, and two channels that are dead
    assert divisors(torch.tensor([16.0]), torch.tensor([2.0]), 1.0).item() == 16


def test_an_outlier_channel_is_divided_most(student: Student) -> None:
    loud = student.copy()
    with torch.no_grad():
        loud.transformer.layers[0].attention_norm.weight[5] *= 50
        loud.transformer.layers[0].attention_norm.bias[7] = 0
        loud.transformer.layers[0].attention_norm.weight[7] = 0
    found = equalized(loud, corpus("text-classification", 20).texts, 0.5)["layers.0.attention_norm"]
    assert int(found.argmax()) == 5 and found[7] == 1


def test_correction_by_hand() -> None:
    weight, rounded = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.5, 2.0]])
    # E[W x] = 1 * 3 + 2 * 4 = 11; E[W' x'] = 1.5 * 2 + 2 * 4 = 11: nothing to mend. Then x' = x: 12.5, so -1.5.
    assert correction(weight, rounded, torch.tensor([3.0, 4.0]), torch.tensor([2.0, 4.0])).tolist() == [0.0]
    assert correction(weight, rounded, torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0])).tolist() == [-1.5]


def test_corrections_are_small_and_of_static_matrices_alone(student: Student) -> None:
    texts = corpus("text-classification", 20).texts
    scales = {"layers.0.ffn_in": calibrate(student, texts)["layers.0.ffn_in"]}
    found = corrections(student, texts, scales, 8)
    assert found.keys() == scales.keys() and 0 < float(found["layers.0.ffn_in"].abs().max()) < 0.05


def test_a_plan_survives_its_record() -> None:
    plan = QuantPlan(
        {"layers.0.query": 0.5}, "int4", 7, ("layers.1.key",), "int8", {"n": (1.0, 2.0)}, {"m": (0.5,)}, 64
    )
    assert QuantPlan.from_json(plan.to_json()) == plan
    assert QuantPlan.from_json({"scales": {}, "words": True, "bits": 8}) == QuantPlan()  # as written before
    with pytest.raises(SettingsError, match="one of int8, weights, fp16, bf16"):
        QuantPlan.from_json({"scales": {}, "words": True, "bits": 8, "kind": "fp4"})
    with pytest.raises(SettingsError, match="bits must be 4 or 8, not 7"):
        QuantPlan.from_json({"scales": {}, "words": True, "bits": 7, "kind": "weights"})


def test_a_record_is_a_folder_of_plain_values(student: Student, tmp_path: Path) -> None:
    planned = replace(student, plan=QuantPlan(smooth={"n": (1.5,)}).to_json())
    planned.save(tmp_path / "s")
    assert Student.load(tmp_path / "s").plan == planned.plan
