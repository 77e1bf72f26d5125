"""SmoothQuant (Xiao et al. 2023, section 4): outlier channels of activations move into the weights that read them.

Behind a post-norm LayerNorm there is a residual too, which must not be scaled. So the plan holds the divisors, and
export writes the norm a second time with its weight and bias divided; the student's own weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.compress.statistics import matrices, observe
from attar.distill.encoder import Encoder
from attar.distill.student import Student
from attar.runtime.tokenizer import Text


def readers(encoder: Encoder) -> dict[str, list[str]]:
    """The matrices that read each LayerNorm, the first of two where they are factorized."""
    found = matrices(encoder)

    def first(name: str) -> str:
        return name if name in found else f"{name}.down"

    result = {}
    for i in range(len(encoder.layers)):
        before = f"layers.{i - 1}.ffn_norm" if i else "embedding_norm"
        result[before] = [first(f"layers.{i}.{name}") for name in ("query", "key", "value")]
        result[f"layers.{i}.attention_norm"] = [first(f"layers.{i}.ffn_in")]
    return result


def divisors(activations: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Largest magnitudes of activations (in,) and weights (in,) -> what to divide the activations by (in,).

    max|X|^alpha / max|W|^(1 - alpha), equation 4; 1 for a channel that either side leaves at 0.
    """
    found = activations.pow(alpha) / weights.pow(1 - alpha)
    return torch.where((activations > 0) & (weights > 0), found, torch.ones_like(found)).clamp(1e-5, 1e5)


def equalized(student: Student, texts: Sequence[Text], alpha: float) -> dict[str, Tensor]:
    """The divisors (in,) of every LayerNorm that matrices read."""
    top: dict[str, Tensor] = {}

    def see(name: str, x: Tensor) -> None:
        largest = x.abs().amax(0)
        top[name] = torch.maximum(top[name], largest) if name in top else largest

    observe(student, texts, see)
    found = matrices(student.transformer)
    result = {}
    for norm, names in readers(student.transformer).items():
        weights = torch.stack([found[n].weight.detach().abs().amax(0) for n in names]).amax(0)
        # In the last layer the query may see fewer tokens than key and value.
        result[norm] = divisors(torch.stack([top[n] for n in names]).amax(0), weights, alpha)
    return result


def by_matrix(encoder: Encoder, smooth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The divisors of every matrix that reads a smoothed norm."""
    return {name: smooth[norm] for norm, names in readers(encoder).items() if norm in smooth for name in names}
