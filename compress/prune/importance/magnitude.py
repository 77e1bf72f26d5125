"""Activation-weighted magnitude: mean |input| times the norm of the weights that read it (Sun et al. 2024, Wanda,
section 3, there for single weights). It asks for neither labels, teacher nor gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from attar.compress.prune.units import OUTWARD, Part, sizes
from attar.compress.statistics import observe
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.encoder import readers
from attar.runtime.tokenizer import Text

COMPARABLE = False


def measure(student: Student, part: Part, texts: int, keep: float, context: Context) -> list[Tensor]:
    """Importance of each unit, (units,) a layer; `keep` does not matter."""
    encoder = student.transformer
    if part == "width":
        modules = readers(encoder)
    else:
        modules = {
            f"layers.{i}": cast(nn.Linear, getattr(layer, OUTWARD[part])) for i, layer in enumerate(encoder.layers)
        }
    found = weighted(student, context.some(texts), modules)
    if part == "width":
        # Every matrix counts alike, however large its inputs are.
        return [torch.stack([f / f.norm().clamp_min(1e-12) for f in found]).sum(0)]
    # Of a head the outputs of its inputs add up, and so do they here.
    return [f.view(n, -1).sum(1) for f, n in zip(found, sizes(encoder, part), strict=True)]


def weighted(student: Student, texts: Sequence[Text], modules: Mapping[str, nn.Linear]) -> list[Tensor]:
    """For each matrix and each of its inputs: mean |input| times the norm of its column, (in,) each."""
    sums = {name: torch.zeros(module.in_features) for name, module in modules.items()}
    counts = dict.fromkeys(modules, 0)

    def see(name: str, x: Tensor) -> None:
        sums[name] += x.abs().sum(0)
        counts[name] += len(x)

    observe(student, texts, see, modules)
    return [sums[n] / counts[n] * module.weight.detach().norm(dim=0) for n, module in modules.items()]
