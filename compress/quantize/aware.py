"""Quantization-aware fine-tuning with distillation: training sees the rounding that int8 will bring.

Weights are rounded per output channel and activations per token in the forward pass; gradients pass straight through
(Bengio et al. 2013; Jacob et al. 2018). What is rounded, and how, is what export lowers, word embeddings included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

from attar.compress.quantize import int8
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.rows import EITHER, Rows, round_columns, round_rows, rows_of
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
    """Weights (out, in) as their int8 gives them back; used as a parametrization."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        return straight(weight, round_columns(weight.detach(), self.bits))


class Activations:
    """A pre-hook: a matrix reads its input as u8 rows give it back. A class, so that copies of a network keep it."""

    def __init__(self, rows: Rows = EITHER) -> None:
        self.rows = rows

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        return (straight(x, round_rows(x.detach().float(), self.rows).to(x.dtype)), *inputs[1:])


def rounded(student: Student, bits: int) -> Student:
    """A copy whose network computes what its int8 export with scales per token computes."""
    copy = student.copy()
    encoder = copy.transformer
    for name, module in matrices(encoder).items():
        parametrize.register_parametrization(module, "weight", Columns(bits))
        module.register_forward_pre_hook(Activations(rows_of(name, encoder.shape.activation)))
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


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student trained under rounding, with a plan; the input is untouched."""
    require_finite(student.transformer.state_dict())
    bits = int8.bits_of(settings.bits)
    trained = distil.apply(rounded(student, bits), lessons(settings), context)
    plan, loss = QuantPlan(bits=bits), trained.lineage[-1]["final_loss"]
    result = replace(student, encoder=plain(trained.transformer, student), plan=plan.to_json())
    return result.with_step("compress.quantize.aware", asdict(settings), final_loss=loss)
