"""First-order Taylor importance (Molchanov et al. 2017, section 2.2; of heads Michel et al. 2019, equation 2).

The gradient of the distance to the teacher's outputs by a multiplier of 1 on each unit, in absolute value, summed over
batches: what removing the unit costs, as far as a tangent tells. A student that is still its teacher's equal has no
such gradient, and then `fisher` or `magnitude` is the one to use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.compress.prune.units import Part, multiplied, sizes
from attar.distill.step import Context
from attar.distill.student import Student

COMPARABLE = False
BATCH = 8


def measure(student: Student, part: Part, texts: int, keep: float, context: Context) -> list[Tensor]:
    """Importance of each unit, (units,) a layer; `keep` does not matter."""
    taught, encoder = context.supervision(student, ()), student.transformer
    order = sorted(context.some_rows(taught, texts), key=lambda i: len(taught.encoded.ids[i]))
    ones = [torch.ones(n, requires_grad=True) for n in sizes(encoder, part)]
    total = [torch.zeros(len(one)) for one in ones]
    for start in range(0, len(order), BATCH):
        batch = taught.batch(order[start : start + BATCH])
        with multiplied(encoder, part, ones):
            found = encoder(*batch.inputs)
        gradients = torch.autograd.grad(taught.soft_loss(found, batch) * len(batch.rows), ones)
        for store, gradient in zip(total, gradients, strict=True):
            store += gradient.abs()
    return total
