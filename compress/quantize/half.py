"""Weights stored in fp16 or bf16; the engine makes them fp32 when it loads them: half the size, no change of speed.

On a CPU the engine computes in fp32 either way. fp16 keeps 11 bits of a number up to 65504, bf16 keeps 8 of any.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import get_args

import torch

from attar.compress.quantize.plan import Half, QuantPlan
from attar.distill.checkpoint import require_finite
from attar.distill.network import Network
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

LARGEST = 65504.0


@dataclass(frozen=True)
class Settings:
    """`kind`: fp16 or bf16."""

    kind: Half = "fp16"

    def __post_init__(self) -> None:
        if self.kind not in get_args(Half):
            raise SettingsError(f"kind must be one of {', '.join(get_args(Half))}, not {self.kind!r}")


def check_range(network: Network) -> None:
    """Refuses weights that fp16 cannot hold."""
    for name, value in network.state_dict().items():
        if float(torch.as_tensor(value).abs().max()) > LARGEST:
            raise SettingsError(f'{name} has values above {LARGEST:g}, which fp16 cannot hold; set kind = "bf16"')


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a plan; export stores them so."""
    require_finite(student.transformer.state_dict())
    if settings.kind == "fp16":
        check_range(student.encoder)
    plan = QuantPlan(kind=settings.kind, words="fp32")
    return replace(student.copy(), plan=plan.to_json()).with_step("compress.quantize.half", asdict(settings))
