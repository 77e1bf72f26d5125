"""Quantization-aware fine-tuning with distillation: training sees the rounding that int8 will bring.

Weights are rounded per output channel and activations by the plan's scales, or per token, in the forward pass;
gradients pass straight through (Bengio et al. 2013; Jacob et al. 2018). What is rounded, and how, is what export
lowers, word embeddings included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attar.compress.quantize import int8
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.rows import EITHER, Rows, round_columns, round_rows, rows_of
from attar.compress.quantize.smooth import by_matrix
from attar.compress.quantize.static import round_static
from attar.compress.statistics import matrices
from attar.distill import distil
from attar.distill.checkpoint import require_finite
from attar.distill.encoder import Encoder
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings:
    """`bits` as in `compress.quantize.int8`; all else as in `distill.distil`.

    The result is int8 with scales per token; a step `compress.quantize.int8` after it may choose another scheme.
    """

    bits: int | Literal["auto"] = "auto"
    methods: tuple[Mapping[str, Any], ...] = distil.DEFAULT
    epochs: float = 1
    batch_size: int = 32
    learning_rate: float = 2e-5
    seed: int = 0

    def __post_init__(self) -> None:
        int8.bits_of(self.bits)
        lessons(self)


def lessons(settings: Settings) -> distil.Settings:
    """The settings of the training itself."""
    given = {name: value for name, value in asdict(settings).items() if name not in ("bits", "methods")}
    return distil.Settings(methods=settings.methods, **given)


def straight(x: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, whose gradient is that of x."""
    return x + (rounded - x).detach()


class Columns(nn.Module):
    """Weights (out, in) as their int8 gives them back; used as a parametrization. `smooth` (in,) or 1 is what their
    inputs are divided by, and they are multiplied by, before both are rounded."""

    def __init__(self, bits: int, smooth: Tensor | float = 1.0) -> None:
        super().__init__()
        self.bits, self.smooth = bits, smooth

    def forward(self, weight: Tensor) -> Tensor:
        smooth = beside(self.smooth, weight)
        return straight(weight, round_columns(weight.detach() * smooth, self.bits) / smooth)


class Activations:
    """A pre-hook: a matrix reads its input as u8 give it back, by a scale of each row, or by a constant one. A class,
    so that copies of a network keep it."""

    def __init__(self, rows: Rows = EITHER, scale: float | None = None, smooth: Tensor | float = 1.0) -> None:
        self.rows, self.scale, self.smooth = rows, scale, smooth

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        smooth = beside(self.smooth, x)
        plain = x.detach().float() / smooth
        found = round_rows(plain, self.rows) if self.scale is None else round_static(plain, self.scale)
        return (straight(x, (found * smooth).to(x.dtype)), *inputs[1:])


def beside(value: Tensor | float, x: Tensor) -> Tensor | float:
    """The value where `x` is."""
    return value.to(x.device) if isinstance(value, Tensor) else value


def rounded(student: Student, plan: QuantPlan) -> Student:
    """A copy whose network computes what the export of the student with an int8 plan computes.

    Two things are not as there: int4 rows of words are rounded as int8, and biases get no shifts.
    """
    copy = student.copy()
    encoder = copy.transformer
    smooth = by_matrix(encoder, {norm: torch.tensor(values) for norm, values in plan.smooth.items()})
    for name, module in matrices(encoder).items():
        if name.removesuffix(".down").removesuffix(".up") in plan.full:
            continue
        divisor = smooth.get(name, 1.0)
        parametrize.register_parametrization(module, "weight", Columns(plan.bits, divisor))
        rows = rows_of(name, encoder.shape.activation)
        module.register_forward_pre_hook(Activations(rows, plan.scales.get(name), divisor))
    if plan.words != "fp32":
        parametrize.register_parametrization(encoder.words, "weight", Columns(8))
    return copy


def plain(trained: Encoder, like: Student) -> Encoder:
    """The network without the rounding, with the weights that it has learnt."""
    learnt = {
        name.replace("parametrizations.weight.original", "weight"): value
        for name, value in trained.state_dict().items()
    }
    result = like.copy().transformer
    result.load_state_dict(learnt)
    return result.eval()


def trained(student: Student, plan: QuantPlan, settings: Settings, context: Context) -> tuple[Student, float]:
    """The student with this plan, trained under its rounding, and the last loss; the input is untouched.

    Shifts are left out: training corrects the biases by itself.
    """
    plan = replace(plan, shifts={})
    learnt = distil.apply(rounded(student, plan), lessons(settings), context)
    result = replace(student, encoder=plain(learnt.transformer, student), plan=plan.to_json())
    return result, learnt.lineage[-1]["final_loss"]


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student trained under rounding, with a plan; the input is untouched."""
    require_finite(student.transformer.state_dict())
    plan = QuantPlan(bits=int8.bits_of(settings.bits))
    result, loss = trained(student, plan, settings, context)
    return result.with_step("compress.quantize.aware", asdict(settings), final_loss=loss)
