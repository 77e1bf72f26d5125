"""Fisher importance: squared gradients by a multiplier of 1 on each unit (Kwon et al. 2022, section 4.2).

Of the true Fisher information (Kunstner et al. 2019, section 2): the gradient is that of the log-likelihood of an
output drawn from the student's own, so neither labels nor a teacher are asked, and a student that fits its teacher
perfectly has a Fisher information too. Values and vectors are taken as the means of normal distributions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.compress.prune.units import Part, multiplied, sizes
from attar.distill.batches import Batch, batches
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.tasks.base import Head

COMPARABLE = False
BATCH = 16


def measure(student: Student, part: Part, texts: int, keep: float, context: Context) -> list[Tensor]:
    """Sum over rows of squared gradients, (units,) a layer; `keep` does not matter."""
    encoder, random = student.transformer, torch.Generator().manual_seed(0)
    total = [torch.zeros(n) for n in sizes(encoder, part)]
    for batch in batches(student.encode(context.some(texts)), student.pad_id, BATCH):
        ones = [torch.ones(len(batch.rows), 1, len(store), requires_grad=True) for store in total]
        with multiplied(encoder, part, ones):
            found = encoder(*batch.inputs).heads
        scores = [
            (found[h.name] * surprise(h, found[h.name].detach(), batch, random)).sum() for h in student.task.heads
        ]
        # Every row has multipliers of its own, so that one pass gives the gradients of each.
        for store, gradient in zip(total, torch.autograd.grad(torch.stack(scores).sum(), ones), strict=True):
            store += gradient.squeeze(1).pow(2).sum(0)
    return total


def surprise(head: Head, found: Tensor, batch: Batch, random: torch.Generator) -> Tensor:
    """The gradient of -log p(y) by the outputs (B, C) or (B, T, C), for a y drawn from what they say themselves."""
    if head.objective == "classes":
        p = torch.softmax(found, -1)
        drawn = torch.multinomial(p.flatten(0, -2), 1, generator=random).view(found.shape[:-1])
        result = p - torch.nn.functional.one_hot(drawn, found.shape[-1])
    elif head.objective == "labels":
        p = torch.sigmoid(found)
        result = p - torch.bernoulli(p, generator=random)
    elif head.objective == "span":
        p = torch.softmax(found + (batch.mask[:, :, None] - 1) * 1e4, 1).transpose(1, 2)
        drawn = torch.multinomial(p.flatten(0, 1), 1, generator=random).view(p.shape[:-1])
        result = (p - torch.nn.functional.one_hot(drawn, p.shape[-1])).transpose(1, 2)
    else:
        result = torch.randn(found.shape, generator=random)
    return result * batch.mask[:, :, None] if head.reads == "tokens" else result
