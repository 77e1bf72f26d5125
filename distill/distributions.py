"""Attention-like distributions over the tokens of a row, and how far two of them are apart.

All in fp32, under autocast too: a score of 50 in bf16 is off by up to 0.125, which moves a probability by 13 %.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from attar.distill.device import full

HIDDEN = -1e9
"""The score of a token that is not there. Finite: a row without any token has a distribution, and no NaN."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of values (..) where `mask` (..) is 1; 0 where it is nowhere."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)


def scores(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Scaled dot products: (B, Q, W), (B, K, W) -> (B, heads, Q, K), of `heads` equal parts of the width W."""
    with full(queries):
        q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (queries, keys))
        found: Tensor = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return found


def log_attention(found: Tensor, known: Tensor) -> Tensor:
    """Log-probabilities over the last axis of scores (B, h, Q, K), of the tokens that are `known` (B, K)."""
    return torch.log_softmax(found.masked_fill(known[:, None, None, :] == 0, HIDDEN), dim=-1)


def divergence(teacher: Tensor, student: Tensor, rows: Tensor) -> Tensor:
    """KL(teacher || student) of log-probabilities (B, h, Q, K), mean over heads and the `rows` (B, Q) that count."""
    return masked_mean((teacher.exp() * (teacher - student)).sum(-1).mean(1), rows)
