"""Soft targets with temperature (Hinton et al. 2015, section 2)."""

import torch
from torch import Tensor


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """T^2 KL(teacher || student) over the last axis (.., C), mean over the rest, or over where `mask` (..) is 1."""
    log_p = torch.log_softmax(student / temperature, dim=-1)
    log_q = torch.log_softmax(teacher / temperature, dim=-1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1)
    if mask is None:
        return divergence.mean() * temperature**2
    weight = mask.to(divergence.dtype)
    return (divergence * weight).sum() / weight.sum().clamp_min(1) * temperature**2
