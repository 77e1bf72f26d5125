"""Weights stored as integers with a scale for each block of a column; the engine makes them fp32 when it loads them.

Size is won, not speed: the kernels that would read integers as they are give a text other bits alone than in a batch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from attar.compress.quantize.plan import QuantPlan, check_bits
from attar.distill.checkpoint import require_finite
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """`bits` of a weight: 8 or 4; `block`: how many weights along a column share a scale."""

    bits: int = 8
    block: int = 32

    def __post_init__(self) -> None:
        check_bits("weights", self.bits)
        if self.block < 1:
            raise SettingsError(f"block must be at least 1, not {self.block}")


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a plan; export stores them so."""
    require_finite(student.transformer.state_dict())
    plan = QuantPlan(kind="weights", bits=settings.bits, block=settings.block)
    return replace(student.copy(), plan=plan.to_json()).with_step("compress.quantize.weights", asdict(settings))
