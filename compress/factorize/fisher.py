"""Fisher-weighted low-rank factorization: entries that decide the answers are kept better (FWSVD, Hsu et al. 2022).

The paper's rows (section 3; it writes x W, so here they are columns, one for each input) are weighted by the root of
the Fisher information summed over their entries: the mean over texts of the squared gradient of the loss. The loss
is the distance to the teacher, to an answer drawn from what it says rather than to the mean of them all: a student
that says the same as its teacher has no gradient of the latter, and with the former its true Fisher information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.compress.factorize.lowrank import Apart, Budget, dense, replace_where_it_pays, take_apart
from attar.compress.statistics import matrices
from attar.distill.objectives import soft
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.runtime.tasks.base import Head

CERTAIN = 1e4
"""A logit that leaves nothing to the others."""


@dataclass(frozen=True)
class Settings(Budget):
    """`texts`: how many training texts show which entries matter; `seed` of the drawn answers."""

    texts: int = 256
    seed: int = 0


def apart(weight: Tensor, information: Tensor) -> Apart:
    """weight (m, n), Fisher information of its entries (m, n); a term's worth is in units of the loss.

    An input without any keeps a millionth of the mean weight: what nothing depends on may go first, not be undefined.
    """
    inputs = information.double().sum(0)
    root = inputs.clamp_min(1e-12 * float(inputs.mean().clamp_min(1e-60))).sqrt()
    return take_apart(weight, root.diag(), (1 / root).diag(), relative=False)


def drawn(head: Head, said: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Raw outputs that stand for one answer, drawn by the probabilities of the teacher's: both (B, C) or (B, T, C).

    A class, or a token as start and as end, by the largest of logits and Gumbel noise; of labels each for itself; a
    value or vector by the normal distribution of variance 1 for which the squared error is the likelihood.
    """
    if head.objective in ("value", "vector"):
        return said + torch.randn(said.shape, generator=generator)
    chance = torch.rand(said.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    if head.objective == "labels":
        return torch.where(chance < torch.sigmoid(said), CERTAIN, -CERTAIN)
    noisy = said - (-chance.log()).log()
    if head.objective == "span":
        noisy = (noisy + (mask[:, :, None] - 1) * CERTAIN).transpose(1, 2)
    taken = F.one_hot(noisy.argmax(-1), noisy.shape[-1]) * CERTAIN
    return taken.transpose(1, 2) if head.objective == "span" else taken


def information(taught: Supervision, names: list[str], rows: Sequence[int], seed: int) -> dict[str, Tensor]:
    """Fisher information of the named matrices, one (m, n) each, from rows each alone."""
    encoder = taught.student.transformer
    found = matrices(encoder)
    leaves = [found[name].weight for name in names]
    total = [torch.zeros_like(leaf) for leaf in leaves]
    generator = torch.Generator().manual_seed(seed)
    for row in rows:
        batch = taught.batch([row])
        outputs, losses = encoder(*batch.inputs).heads, []
        for head in taught.student.task.heads:
            said, known = taught.outputs(head, batch)
            losses.append(soft(head, outputs[head.name], drawn(head, said, known, generator), known, 1.0))
        gradients = torch.autograd.grad(torch.stack(losses).sum(), leaves)
        for store, gradient in zip(total, gradients, strict=True):
            store += gradient.square() / len(rows)
    return dict(zip(names, total, strict=True))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student with every kind of matrix factorized that is faster so on the measured engine; perhaps none."""
    weights = dense(student, settings.matrices)
    taught = context.supervision(student, ())
    rows = context.some_rows(taught, settings.texts)
    known = information(taught, list(weights), rows, settings.seed) if weights else {}
    found = {name: apart(weight, known[name]) for name, weight in weights.items()}
    return replace_where_it_pays(student, "compress.factorize.fisher", settings, found, context)
