"""How rows of activations become u8, each by a scale of its own: what export lowers, in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """`middle` is the u8 that stands for 0; the scale of a row is at least `floor`.

    A row x (K,) is rounded by scale = max|x| / (255 - middle), or max(x) where middle is not 128: what an activation
    function gives is nowhere far below 0, so nearly all levels can lie above it, and one pass finds the largest.
    """

    middle: int
    floor: float = 0.0

    @property
    def top(self) -> int:
        """Levels above 0."""
        return 255 - self.middle


EITHER = Rows(128)
"""Values of either sign."""
RELU = Rows(0)
GELU = Rows(32, floor=0.17 / 32)
"""Gelu is nowhere below -0.17: with the floor its negative values have levels even in rows without larger ones."""


def rows_of(matrix: str, activation: str) -> Rows:
    """Of the input of a matrix of a layer (`layers.0.ffn_out`, `layers.0.ffn_out.down` where it is factorized)."""
    if not matrix.endswith((".ffn_out", ".ffn_out.down")):
        return EITHER
    return RELU if activation == "relu" else GELU


def scale_rows(x: Tensor, rows: Rows = EITHER) -> Tensor:
    """The scale of every row: (.., K) -> (.., 1); 0 for a row of zeros."""
    top = x.abs() if rows.middle == 128 else x
    # The engine multiplies by the rounded reciprocal.
    step = torch.tensor(1 / rows.top, dtype=torch.float32)
    return (top.amax(-1, keepdim=True) * step).clamp_min(rows.floor)


def round_rows(x: Tensor, rows: Rows = EITHER) -> Tensor:
    """Values (.., K) as the u8 of their rows give them back."""
    scale = scale_rows(x, rows)
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return torch.clamp(torch.round(x / safe), -rows.middle, rows.top) * scale


def round_columns(weight: Tensor, bits: int = 8) -> Tensor:
    """Weights (out, in) as symmetric integers with one scale an output give them back."""
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
    rounded: Tensor = torch.clamp(torch.round(weight / scale), -top, top) * scale
    return rounded
