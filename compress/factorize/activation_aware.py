"""Activation-aware low-rank factorization: the product that best keeps a matrix's outputs, not its entries.

W is replaced by U V of rank r that minimises E|W x - U V x|^2: with E[x x^T] = L L^T, the truncated SVD of W L, and L
taken out again (the whitening of SVD-LLM, Wang et al. 2024, section 3; by eigenvalues, since rounding makes some
moments indefinite). Only where it pays on the engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from attar.compress.statistics import second_moments
from attar.distill.encoder import MATRICES, LayerShape, LowRank, resized
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """`rank`: fraction of a matrix's full rank; `matrices`: which kinds are tried, each kept only if it pays."""

    rank: float = 0.33
    matrices: tuple[str, ...] = ("ffn_in", "ffn_out")
    texts: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.rank < 1:
            raise SettingsError(f"rank is a fraction of the full rank, above 0 and below 1, not {self.rank}")
        wrong = [m for m in self.matrices if m not in MATRICES]
        if wrong:
            raise SettingsError(f"unknown matrix {wrong[0]!r}; known: {', '.join(MATRICES)}")


def factors(weight: Tensor, moment: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """weight (out, in), second moment of its input (in, in) -> up (out, rank), down (rank, in)."""
    values, vectors = torch.linalg.eigh(moment)
    root = values.clamp_min(1e-6 * float(moment.diagonal().mean().clamp_min(1e-12))).sqrt()
    u, s, v = torch.linalg.svd(weight.double() @ vectors * root, full_matrices=False)
    scale = s[:rank].sqrt()
    down = (scale[:, None] * v[:rank] / root) @ vectors.T
    return (u[:, :rank] * scale).to(weight.dtype), down.to(weight.dtype)


def factorized(student: Student, ranks: Mapping[str, int], moments: Mapping[str, Tensor]) -> Student:
    """A student whose named matrices (`layers.0.ffn_in`) are products of the given ranks."""
    shapes: list[LayerShape] = []
    for i, shape in enumerate(student.transformer.shape.layers):
        own = {m: ranks[f"layers.{i}.{m}"] for m in MATRICES if f"layers.{i}.{m}" in ranks}
        shapes.append(replace(shape, ranks={**shape.ranks, **own}))
    encoder = resized(student.transformer, tuple(shapes))
    for i, (new, old) in enumerate(zip(encoder.layers, student.transformer.layers, strict=True)):
        for name, module in old.named_children():
            target, full = getattr(new, name), f"layers.{i}.{name}"
            if full in ranks:
                assert isinstance(target, LowRank) and isinstance(module, nn.Linear)
                up, down = factors(module.weight.detach(), moments[full], ranks[full])
                target.load_state_dict({"down.weight": down, "up.weight": up, "up.bias": module.bias.detach()})
            else:
                target.load_state_dict(module.state_dict())
    return replace(student, encoder=encoder.eval())


def _candidates(student: Student, kinds: Sequence[str], fraction: float) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for kind in kinds:
        for i, layer in enumerate(student.transformer.layers):
            module = getattr(layer, kind)
            if isinstance(module, nn.Linear):
                rank = max(8, round(fraction * min(module.weight.shape) / 8) * 8)
                if rank < min(module.weight.shape):
                    found.setdefault(kind, {})[f"layers.{i}.{kind}"] = rank
    return found


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student with every kind of matrix factorized that is faster so on the measured engine; perhaps none."""
    candidates = _candidates(student, settings.matrices, settings.rank)
    names = [name for ranks in candidates.values() for name in ranks]
    moments = second_moments(student, context.train.texts[: settings.texts], names)
    chosen: dict[str, int] = {}
    measured: dict[str, float] = {}
    for kind, ranks in candidates.items():
        ratio = context.speedup(student, factorized(student, ranks, moments))
        measured[kind] = round(ratio.ratio, 3)
        if ratio.low > 1.0:
            chosen |= ranks
    result = factorized(student, chosen, moments) if chosen else student
    return result.with_step(
        "compress.factorize.activation_aware", asdict(settings), ranks=chosen, measured_speedup=measured
    )
