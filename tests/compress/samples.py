"""Made-up inputs of a matrix, and what the techniques of compression know of them."""

from __future__ import annotations

import torch


def correlated(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Samples (rows, columns) whose columns depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mix


def moment(x: torch.Tensor) -> torch.Tensor:
    """Their second moment (columns, columns)."""
    return x.T @ x / len(x)
