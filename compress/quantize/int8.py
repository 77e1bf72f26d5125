"""Batch-invariant int8: per-channel weights, activations scaled per token, or by calibrated constants where that holds.

Each scheme is exported and measured. The fastest that loses at most `max_loss` points on dev is taken; if none does,
the most accurate. Of a network without transformer layers the word embeddings are stored as int8 rows and all else
stays fp32: one scheme, `words`, whatever `schemes` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from attar.compress.quantize.plan import SCHEMES, QuantPlan
from attar.compress.statistics import observe
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text

WORDS = "words"


@dataclass(frozen=True)
class Settings:
    """`schemes` to try; `texts` for calibration; `max_loss` in points on dev; `bits` as in `QuantPlan`.

    With `mixed`, a matrix is static where that rounds at most `tolerance` times as badly as per token.
    """

    schemes: tuple[str, ...] = SCHEMES
    texts: int = 256
    max_loss: float = 0.5
    tolerance: float = 8.0
    bits: int = 8

    def __post_init__(self) -> None:
        wrong = [s for s in self.schemes if s not in SCHEMES]
        if wrong or not self.schemes:
            raise SettingsError(f"unknown scheme {wrong[0] if wrong else '(none)'!r}; known: {', '.join(SCHEMES)}")
        if self.bits not in (7, 8):
            raise SettingsError(f"bits must be 7 or 8, not {self.bits}")


def best_scale(sample: Tensor, steps: int = 40) -> float:
    """The clipping scale of least mean squared rounding error of values (n,) in 127 levels a side."""
    top = float(sample.abs().max()) or 1e-6
    best, least = top / 127, float("inf")
    for i in range(1, steps + 1):
        scale = top * i / steps / 127
        rounded = torch.clamp(torch.round(sample / scale), -127, 127) * scale
        error = float((rounded - sample).pow(2).mean())
        if error < least:
            best, least = scale, error
    return best


def calibrate(student: Student, texts: Sequence[Text], sample: int = 4096) -> dict[str, float]:
    """Static activation scales of every matrix, from a seeded sample of the values it really sees."""
    if not texts:
        raise SettingsError("static scales need calibration texts, and there are none; use the scheme per_token")
    seen: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, x: Tensor) -> None:
        values = x.flatten()
        picked = torch.randint(len(values), (min(sample, len(values)),), generator=generator)
        # The largest magnitude is always in the sample, since clipping it is the choice to be made.
        seen.setdefault(name, []).append(torch.cat([values[picked], values.abs().max()[None]]))

    observe(student, texts, see)
    return {name: best_scale(torch.cat(parts)) for name, parts in seen.items()}


def rounding(x: Tensor, scale: Tensor | float) -> float:
    """Sum of squared rounding errors of values (tokens, in) at one scale, or one a token (tokens, 1)."""
    return float((torch.clamp(torch.round(x / scale), -127, 127) * scale - x).pow(2).sum())


def tame(student: Student, texts: Sequence[Text], scales: dict[str, float], tolerance: float) -> dict[str, float]:
    """The static scales of those matrices that they round at most `tolerance` times as badly as per-token ones."""
    static: dict[str, float] = dict.fromkeys(scales, 0.0)
    per_token: dict[str, float] = dict.fromkeys(scales, 0.0)

    def see(name: str, x: Tensor) -> None:
        static[name] += rounding(x, scales[name])
        per_token[name] += rounding(x, x.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127)

    observe(student, texts, see)
    return {name: scale for name, scale in scales.items() if static[name] <= tolerance * per_token[name]}


def shared(scales: dict[str, float]) -> dict[str, float]:
    """Query, key and value read the same tensor: one scale, so that it is quantized once."""
    result = dict(scales)
    for name in scales:
        if name.endswith(".query"):
            base = name.removesuffix("query")
            together = [n for n in (f"{base}query", f"{base}key", f"{base}value") if n in scales]
            for other in together:
                result[other] = max(scales[n] for n in together)
    return result


def _scales(scheme: str, student: Student, texts: Sequence[Text], tolerance: float) -> dict[str, float]:
    if scheme in ("per_token", WORDS):
        return {}
    scales = shared(calibrate(student, texts))
    return scales if scheme == "static" else tame(student, texts, scales, tolerance)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a plan; export writes the int8 nodes."""
    before = context.score(student)
    tried: dict[str, dict[str, float]] = {}
    candidates: list[tuple[float, float, Student]] = []
    for scheme in settings.schemes if student.encoder.depth else (WORDS,):
        scales = _scales(scheme, student, context.train.texts[: settings.texts], settings.tolerance)
        candidate = replace(student, plan=QuantPlan(scales, bits=settings.bits).to_json())
        loss = before - context.score(candidate)
        ratio = context.speedup(student, candidate).ratio
        tried[scheme] = {"loss_points": round(loss, 3), "speedup": round(ratio, 3)}
        candidates.append((loss, ratio, candidate))
    holding = [c for c in candidates if c[0] <= settings.max_loss]
    best = max(holding, key=lambda c: c[1]) if holding else min(candidates, key=lambda c: c[0])
    return best[2].with_step("compress.quantize.int8", asdict(settings), tried=tried)
