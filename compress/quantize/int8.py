"""Batch-invariant int8: per-channel weights, activations scaled per token, or by calibrated constants where that holds.

Each scheme is exported and measured. The fastest that loses at most `max_loss` points on dev is taken; if none does,
the most accurate. Whatever `schemes` says, there is one scheme for a ModernBERT, per token, since calibration and
smoothing read an `Encoder`; and one for a network without transformer layers, `words`: the word embeddings are stored
as int8 rows and all else stays fp32.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from torch import Tensor

from attar.compress.quantize.bias import corrections
from attar.compress.quantize.calibration import METHODS
from attar.compress.quantize.plan import SCHEMES, QuantPlan, check_bits
from attar.compress.quantize.smooth import by_matrix, equalized
from attar.compress.quantize.static import calibrate, shared, tame
from attar.distill.checkpoint import require_finite
from attar.distill.encoder import Encoder
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.cpu import instruction_sets
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text

WORDS = "words"


@dataclass(frozen=True)
class Settings:
    """`schemes` to try; `texts` for calibration; `max_loss` in points on dev.

    With `mixed`, a matrix is static where that rounds at most `tolerance` times as badly as per token.

    Attributes:
        bits: of weights: 8, or 7 for processors whose u8 x s8 products saturate; `auto`: what this machine needs.
        calibration: how static scales are found: `mse`, `minmax`, `percentile` or `entropy`.
        smooth: alpha of SmoothQuant, 0 to 1: how much of the outliers moves into the weights; 0 leaves it out.
        correct: whether the mean rounding error of static matrices is taken off their biases.
    """

    schemes: tuple[str, ...] = SCHEMES
    texts: int = 256
    max_loss: float = 0.5
    tolerance: float = 8.0
    bits: int | Literal["auto"] = "auto"
    calibration: str = "mse"
    smooth: float = 0.0
    correct: bool = False

    def __post_init__(self) -> None:
        wrong = [s for s in self.schemes if s not in SCHEMES]
        if wrong or not self.schemes:
            raise SettingsError(f"unknown scheme {wrong[0] if wrong else '(none)'!r}; known: {', '.join(SCHEMES)}")
        if self.calibration not in METHODS:
            raise SettingsError(f"unknown calibration {self.calibration!r}; known: {', '.join(METHODS)}")
        if not 0 <= self.smooth <= 1:
            raise SettingsError(f"smooth must be from 0 to 1, not {self.smooth}")
        bits_of(self.bits)


def bits_of(bits: int | Literal["auto"]) -> int:
    """The bits of weights; `auto` is 7 on x86 without VNNI, where sums of two u8 x s8 products saturate at 16 bits."""
    if bits != "auto":
        check_bits("int8", bits)
        return bits
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return 7 if x86 and not instruction_sets() & {"avx512_vnni", "avx_vnni"} else 8


def planned(scheme: str, student: Student, texts: Sequence[Text], settings: Settings) -> QuantPlan:
    """The plan of a scheme, calibrated on the texts where it needs them."""
    bits = bits_of(settings.bits)
    if scheme == WORDS or not isinstance(student.encoder, Encoder):
        return QuantPlan(bits=bits)
    norms = equalized(student, texts, settings.smooth) if settings.smooth else {}
    smooth = by_matrix(student.transformer, norms)
    scales = {} if scheme == "per_token" else shared(calibrate(student, texts, settings.calibration, smooth))
    if scheme == "mixed":
        scales = tame(student, texts, scales, settings.tolerance, smooth)
    shifts = corrections(student, texts, scales, bits, smooth) if settings.correct and scales else {}
    return QuantPlan(scales, bits=bits, smooth=_listed(norms), shifts=_listed(shifts))


def schemes_of(student: Student, settings: Settings) -> tuple[str, ...]:
    """The schemes that there are for the student's network."""
    if isinstance(student.encoder, Encoder):
        return settings.schemes
    return ("per_token",) if student.encoder.depth else (WORDS,)


def _listed(values: Mapping[str, Tensor]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(value.tolist()) for name, value in values.items()}


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a plan; export writes the int8 nodes."""
    require_finite(student.encoder.state_dict())
    before = context.score(student)
    tried: dict[str, dict[str, float]] = {}
    candidates: list[tuple[float, float, Student]] = []
    for scheme in schemes_of(student, settings):
        plan = planned(scheme, student, context.some(settings.texts), settings)
        candidate = replace(student, plan=plan.to_json())
        loss = before - context.score(candidate)
        ratio = context.speedup(student, candidate).ratio
        tried[scheme] = {"loss_points": round(loss, 3), "speedup": round(ratio, 3)}
        candidates.append((loss, ratio, candidate))
    holding = [c for c in candidates if c[0] <= settings.max_loss]
    best = max(holding, key=lambda c: c[1]) if holding else min(candidates, key=lambda c: c[0])
    return best[2].with_step("compress.quantize.int8", asdict(settings), tried=tried)
