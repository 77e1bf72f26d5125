"""The losses of every kind of head: towards true targets (hard) and towards a teacher's outputs (soft)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.distill.methods.soft_targets import soft_targets
from attar.runtime.tasks.base import IGNORED, Head


def hard(head: Head, found: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The training loss of one head: found (B, C) or (B, T, C), target as `Head.objective` says, mask (B, T)."""
    if head.objective == "classes":
        if not bool((target != IGNORED).any()):  # texts of which the tokenizer leaves nothing
            return found.sum() * 0.0
        return F.cross_entropy(found.flatten(0, -2), target.flatten(), ignore_index=IGNORED)
    if head.objective == "labels":
        return F.binary_cross_entropy_with_logits(found, target)
    if head.objective == "value":
        return F.mse_loss(found, target)
    if head.objective == "span":
        scores = found + (mask[:, :, None] - 1) * 1e4
        return (F.cross_entropy(scores[..., 0], target[:, 0]) + F.cross_entropy(scores[..., 1], target[:, 1])) / 2
    return supervised_contrastive(found, target)


def soft(head: Head, found: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Distance to the teacher's raw outputs of the same shape, a scalar.

    Classes: T^2 KL of the softened distributions (Hinton et al. 2015, section 2), over tokens where `mask` (B, T) is 1.
    Labels: the same of each binary distribution. Spans: of the distributions over tokens. Values and vectors: MSE.
    """
    if head.objective == "classes":
        return soft_targets(found, teacher, temperature, mask if head.reads == "tokens" else None)
    if head.objective == "labels":
        both = torch.stack([found, torch.zeros_like(found)], -1), torch.stack([teacher, torch.zeros_like(teacher)], -1)
        return soft_targets(*both, temperature)
    if head.objective == "value":
        return F.mse_loss(found, teacher)
    if head.objective == "span":
        hidden = (mask[:, :, None] - 1) * 1e4
        return soft_targets((found + hidden).transpose(1, 2), (teacher + hidden).transpose(1, 2), temperature)
    return (found - teacher).pow(2).sum(-1).mean()


def supervised_contrastive(vectors: Tensor, classes: Tensor, temperature: float = 0.05) -> Tensor:
    """Unit vectors (B, D) of the same class (B,) attract, others repel (Khosla et al. 2020, equation 2).

    Rows without a partner in the batch only repel; a batch without any pair gives 0.
    """
    same = classes[:, None] == classes[None, :]
    other = ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    scores = (vectors @ vectors.T / temperature).masked_fill(~other, -1e4)
    log_p = torch.log_softmax(scores, dim=-1)
    positive = (same & other).to(log_p.dtype)
    partners = positive.sum(1)
    if not bool(partners.any()):
        return vectors.sum() * 0.0
    paired = partners > 0
    return -((log_p * positive).sum(1)[paired] / partners[paired]).mean()
