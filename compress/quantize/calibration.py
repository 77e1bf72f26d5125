"""Static scales by calibration: pure functions from a sample of values to the scale of 127 levels on either side."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

LEAST = 1e-9
"""The scale of a channel or tensor without any value but 0 cannot be 0."""
LEVELS = 127


def minmax(sample: Tensor) -> float:
    """Nothing is clipped: the largest magnitude of (n,) over 127."""
    return max(float(sample.abs().max()) / LEVELS, LEAST)


def percentile(sample: Tensor, share: float = 99.99) -> float:
    """The magnitude below which `share` % of the values (n,) lie, over 127."""
    found = torch.sort(sample.abs()).values
    # By rank, as torch.quantile refuses more than 16 million values.
    return max(float(found[min(len(found) - 1, int(len(found) * share / 100))]) / LEVELS, LEAST)


def mse(sample: Tensor, steps: int = 40) -> float:
    """The clipping scale of least mean squared rounding error of values (n,)."""
    best, least = minmax(sample), float("inf")
    for i in range(1, steps + 1):
        scale = minmax(sample) * i / steps
        rounded = torch.clamp(torch.round(sample / scale), -LEVELS, LEVELS) * scale
        error = float((rounded - sample).pow(2).mean())
        if error < least:
            best, least = scale, error
    return best


def entropy(sample: Tensor, bins: int = 2048, levels: int = 128) -> float:
    """The clipping scale whose rounded histogram of magnitudes (n,) tells least from the original (S. Migacz, 8-bit
    inference with TensorRT, 2017): the least KL divergence over clipping at every bin from `levels` on."""
    magnitudes = sample.abs().double()
    top = float(magnitudes.max())
    if top <= LEAST * LEVELS:
        return LEAST
    counts = torch.histc(magnitudes, bins, 0, top)
    # Zeros are exact at any scale, and their many would hide all else.
    counts[0] -= (magnitudes == 0).sum()
    found = [(divergence(counts, kept, levels), kept) for kept in range(levels, bins + 1, 8)]
    return min(found)[1] / bins * top / LEVELS


def divergence(counts: Tensor, kept: int, levels: int) -> float:
    """KL divergence in nats of a histogram (bins,) from its first `kept` bins merged into `levels` equal groups.

    What is clipped counts to the last kept bin; a group's count is spread evenly over its bins that are not empty.
    """
    reference = counts[:kept].clone()
    reference[-1] += counts[kept:].sum()
    group = (torch.arange(kept) * levels) // kept
    full = (counts[:kept] > 0).double()
    sums = torch.zeros(levels, dtype=counts.dtype).index_add_(0, group, counts[:kept])
    filled = torch.zeros(levels, dtype=counts.dtype).index_add_(0, group, full)
    candidate = (sums / filled.clamp_min(1))[group] * full
    p, q = reference / reference.sum().clamp_min(1), candidate / candidate.sum().clamp_min(1)
    seen = p > 0
    # A bin that only clipping has filled is impossible by the candidate; a small probability keeps it comparable.
    return float((p[seen] * torch.log(p[seen] / q[seen].clamp_min(1e-9))).sum())


METHODS: Mapping[str, Callable[[Tensor], float]] = {
    "mse": mse,
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
}
