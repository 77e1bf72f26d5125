"""Learned gates: each unit has a hard-concrete gate, trained for some steps against the teacher (Louizos et al. 2018,
section 2.2), while a Lagrangian holds the expected share of open gates to `keep` (Xia et al. 2022, CoFi, section 3.1).
The weights stand still; a unit matters as much as its gate stays open.
"""

from __future__ import annotations

import math
import random as rows_at_random
from typing import Any

import torch
from torch import Tensor

from attar.compress.prune.units import Part, multiplied, sizes
from attar.distill.step import Context
from attar.distill.student import Student

COMPARABLE = True
STEPS, BATCH, RATE = 100, 16, 0.1
WARM = 0.5
"""Over this share of the steps the target falls to `keep`, from where the gates start."""
BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Temperature and ends of the stretched concrete distribution (Louizos et al. 2018, section 4)."""
OPEN = 2.0
"""The logarithm that a gate starts with: open with a probability of 0.97."""


def measure(student: Student, part: Part, texts: int, keep: float, context: Context) -> list[Tensor]:
    """The probability that each gate is open after the training, (units,) a layer."""
    taught, encoder = context.supervision(student, ()), student.transformer
    noise, order = torch.Generator().manual_seed(0), rows_at_random.Random(0)
    rows = context.some_rows(taught, texts)
    logits = [torch.full((n,), OPEN, requires_grad=True) for n in sizes(encoder, part)]
    prices = torch.zeros(2, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": logits}, {"params": [prices], "maximize": True}]
    optimiser = torch.optim.Adam(groups, lr=RATE)
    for step in range(STEPS):
        batch = taught.batch(order.sample(rows, min(BATCH, len(rows))))
        with multiplied(encoder, part, [gate(logit, noise) for logit in logits]):
            found = encoder(*batch.inputs)
        excess = torch.cat([open_probability(logit) for logit in logits]).mean() - target(step, keep)
        loss = taught.soft_loss(found, batch) + prices[0] * excess + prices[1] * excess**2
        for leaf, gradient in zip(leaves := [*logits, prices], torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        optimiser.step()
        context.progress(step / STEPS, f"gates: {excess.item() + target(step, keep):.2f} open")
    return [open_probability(logit).detach() for logit in logits]


def target(step: int, keep: float) -> float:
    """The share of open gates that is asked for at a step."""
    start = open_probability(torch.tensor(OPEN)).item()
    return start - (start - keep) * min(1.0, step / (WARM * STEPS))


def gate(logit: Tensor, random: torch.Generator) -> Tensor:
    """A draw of each gate (units,), in [0, 1] with both ends likely."""
    u = torch.rand(logit.shape, generator=random).clamp(1e-6, 1 - 1e-6)
    concrete = torch.sigmoid((u.log() - (1 - u).log() + logit) / BETA)
    return (concrete * (HIGH - LOW) + LOW).clamp(0, 1)


def open_probability(logit: Tensor) -> Tensor:
    """The probability that a gate is not exactly 0 (Louizos et al. 2018, equation 12): (units,)."""
    return torch.sigmoid(logit - BETA * math.log(-LOW / HIGH))
