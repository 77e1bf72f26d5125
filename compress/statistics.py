"""What pruning, factorization and calibration measure on real texts: second moments, largest values, importance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attar.distill.batches import batches
from attar.distill.encoder import MATRICES, Encoder, Masks
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.runtime.tokenizer import Text


def matrices(encoder: Encoder) -> dict[str, nn.Linear]:
    """Every linear map of the layers by name (`layers.0.query`, or `layers.0.query.down` where factorized)."""
    found = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and n.startswith("layers.")}
    return {n: m for n, m in found.items() if n.split(".")[2] in MATRICES}


def observe(student: Student, texts: Sequence[Text], see: Callable[[str, Tensor], None]) -> None:
    """Calls `see(name, x)` with the input (tokens, in) of every matrix, padding left out, one batch at a time."""
    real: list[Tensor] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            see(name, x[real[0][:, : x.shape[1]]])

        return record

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in matrices(student.transformer).items()]
    try:
        with torch.no_grad():
            for batch in batches(student.encode(texts), student.pad_id, 32):
                real[:] = [batch.mask.bool()]
                student.encoder(*batch.inputs)
    finally:
        for handle in handles:
            handle.remove()


def second_moments(student: Student, texts: Sequence[Text], names: Sequence[str]) -> dict[str, Tensor]:
    """E[x x^T] of the inputs of the named matrices: (in, in) float64 each."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, x: Tensor) -> None:
        if name in names:
            product = (x.T @ x).double()
            sums[name] = sums[name] + product if name in sums else product
            counts[name] = counts.get(name, 0) + x.shape[0]

    observe(student, texts, see)
    return {name: total / counts[name] for name, total in sums.items()}


def taylor_importance(taught: Supervision, rows: int) -> list[Masks]:
    """First-order Taylor importance of every head and FFN neuron (Molchanov et al. 2017; Michel et al. 2019).

    The gradient of the distance to the teacher's outputs by a multiplier of 1 on each unit, in absolute value, summed
    over batches of the first `rows` rows. One `Masks` a layer: heads (heads,), ffn (ffn,).
    """
    encoder = taught.student.transformer
    masks = tuple(
        Masks(torch.ones(s.heads, requires_grad=True), torch.ones(s.ffn, requires_grad=True))
        for s in encoder.shape.layers
    )
    total = [Masks(torch.zeros(s.heads), torch.zeros(s.ffn)) for s in encoder.shape.layers]
    leaves = [t for m in masks for t in m]
    chosen = range(min(rows, len(taught.encoded.ids)))
    order = sorted(chosen, key=lambda i: len(taught.encoded.ids[i]))
    for start in range(0, len(order), 8):
        batch = taught.batch(order[start : start + 8])
        found = encoder(*batch.inputs, masks=masks)
        gradients = torch.autograd.grad(taught.soft_loss(found, batch) * len(batch.rows), leaves)
        for store, g in zip((t for m in total for t in m), gradients, strict=True):
            store += g.abs()
    return total


def refit(weight: Tensor, moment: Tensor, kept: Tensor, damp: float = 1e-3) -> Tensor:
    """Least squares: the columns `kept` (k,) of weight (out, in) that best reproduce its outputs -> (out, k).

    Minimises E|W x - V x_kept|^2 with the second moment (in, in) of x (as in Optimal Brain Surgeon, Hassibi 1993).
    The damping draws V towards the old columns, so that nothing changes where nothing was lost.
    """
    old = weight[:, kept].double()
    inner = moment[kept][:, kept]
    lost = weight.double() @ moment[:, kept] - old @ inner
    ridge = damp * inner.diagonal().mean().clamp_min(1e-12)
    solved: Tensor = torch.linalg.solve(inner + ridge * torch.eye(len(kept), dtype=inner.dtype), lost.T)
    return (old + solved.T).to(weight.dtype)
