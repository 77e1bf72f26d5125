"""Soft targets with temperature (Hinton et al. 2015, section 2)."""

import torch
from torch import Tensor


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened distributions, mean over the batch; logits (B, C) both."""
    log_p = torch.log_softmax(student / temperature, dim=-1)
    log_q = torch.log_softmax(teacher / temperature, dim=-1)
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    return divergence * temperature**2
