"""Static scales of activations: calibrated on texts, shared where one tensor is read, kept where they round well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.compress.quantize.calibration import LEVELS, METHODS
from attar.compress.quantize.rows import round_rows, rows_of
from attar.compress.statistics import observe
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text


def calibrate(
    student: Student, texts: Sequence[Text], method: str = "mse", smooth: Mapping[str, Tensor] | None = None,
    sample: int = 4096,
) -> dict[str, float]:  # fmt: skip
    """Static activation scales of every matrix, from a seeded sample of the values it really sees.

    `smooth`: by matrix, what its inputs (in,) are divided by.
    """
    if len(texts) < 2:
        given = "there are none" if not texts else "one text says little about others"
        raise SettingsError(
            f'static scales need calibration texts, and {given}: give a few hundred, or set schemes = ["per_token"]'
        )
    seen: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, x: Tensor) -> None:
        values = divided(x, name, smooth).flatten()
        picked = torch.randint(len(values), (min(sample, len(values)),), generator=generator)
        # The largest magnitude is always in the sample, since clipping it is the choice to be made.
        seen.setdefault(name, []).append(torch.cat([values[picked], values.abs().max()[None]]))

    observe(student, texts, see)
    return {name: METHODS[method](torch.cat(parts)) for name, parts in seen.items()}


def divided(x: Tensor, name: str, smooth: Mapping[str, Tensor] | None) -> Tensor:
    """What a matrix reads (tokens, in) once the norm before it is smoothed."""
    return x / smooth[name] if smooth and name in smooth else x


def round_static(x: Tensor, scale: float) -> Tensor:
    """Values as the u8 of one constant scale give them back."""
    return torch.clamp(torch.round(x / scale), -LEVELS - 1, LEVELS) * scale


def tame(
    student: Student, texts: Sequence[Text], scales: Mapping[str, float], tolerance: float,
    smooth: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The static scales of those matrices that they round at most `tolerance` times as badly as per-token ones."""
    static: dict[str, float] = dict.fromkeys(scales, 0.0)
    per_token: dict[str, float] = dict.fromkeys(scales, 0.0)
    activation = student.transformer.shape.activation

    def see(name: str, x: Tensor) -> None:
        x = divided(x, name, smooth)
        static[name] += float((round_static(x, scales[name]) - x).pow(2).sum())
        per_token[name] += float((round_rows(x, rows_of(name, activation)) - x).pow(2).sum())

    observe(student, texts, see)
    return {name: scale for name, scale in scales.items() if static[name] <= tolerance * per_token[name]}


def shared(scales: Mapping[str, float]) -> dict[str, float]:
    """Query, key and value read the same tensor: one scale, so that it is quantized once."""
    result = dict(scales)
    for name in scales:
        if name.endswith(".query"):
            base = name.removesuffix("query")
            together = [n for n in (f"{base}query", f"{base}key", f"{base}value") if n in scales]
            for other in together:
                result[other] = max(scales[n] for n in together)
    return result
