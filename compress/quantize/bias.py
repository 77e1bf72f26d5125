"""Bias correction (Nagel et al. 2019, section 4.2): the mean error of a rounded product is taken off its bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attar.compress.quantize.rows import round_columns
from attar.compress.quantize.static import divided, round_static
from attar.compress.statistics import matrices, observe
from attar.distill.student import Student
from attar.runtime.tokenizer import Text


def correction(weight: Tensor, rounded: Tensor, mean: Tensor, rounded_mean: Tensor) -> Tensor:
    """What to add to the bias (out,): E[W x] - E[W' x'] of weights (out, in) and mean inputs (in,), rounded or not."""
    return weight @ mean - rounded @ rounded_mean


def corrections(
    student: Student, texts: Sequence[Text], scales: Mapping[str, float], bits: int,
    smooth: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """The corrections (out,) of all matrices that have a static scale and a bias."""
    found = {n: m for n, m in matrices(student.transformer).items() if n in scales and m.bias is not None}
    sums: dict[str, Tensor] = {}
    rounded: dict[str, Tensor] = {}
    counts = dict.fromkeys(found, 0)

    def see(name: str, x: Tensor) -> None:
        if name not in found:
            return
        x = divided(x, name, smooth)
        for store, values in ((sums, x), (rounded, round_static(x, scales[name]))):
            store[name] = store.get(name, torch.zeros(x.shape[1], dtype=torch.float64)) + values.double().sum(0)
        counts[name] += len(x)

    observe(student, texts, see)
    result = {}
    for name, matrix in found.items():
        weight = matrix.weight.detach() * (smooth[name] if smooth and name in smooth else 1.0)
        means = sums[name] / counts[name], rounded[name] / counts[name]
        result[name] = correction(weight.double(), round_columns(weight, bits).double(), *means).float()
    return result
