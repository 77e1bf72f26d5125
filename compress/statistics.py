"""What pruning, factorization and calibration measure on real texts: second moments, largest values, importance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from attar.distill.encoder import MATRICES, Encoder, Masks
from attar.distill.student import Student
from attar.runtime.tokenizer import pad


def batches(student: Student, texts: Sequence[str], size: int = 32) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(indices, ids, mask) of all texts in batches of similar length."""
    rows = student.tokens(texts)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        ids, mask = pad([rows[i] for i in chosen], student.pad_id)
        yield chosen, torch.from_numpy(ids), torch.from_numpy(mask)


def matrices(encoder: Encoder) -> dict[str, nn.Linear]:
    """Every linear map of the layers by name (`layers.0.query`, or `layers.0.query.down` where factorized)."""
    found = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and n.startswith("layers.")}
    return {n: m for n, m in found.items() if n.split(".")[2] in MATRICES}


def observe(student: Student, texts: Sequence[str], see: Callable[[str, Tensor], None]) -> None:
    """Calls `see(name, x)` with the input (tokens, in) of every matrix, padding left out, one batch at a time."""
    real: list[Tensor] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            see(name, x[real[0][:, : x.shape[1]]])

        return record

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in matrices(student.encoder).items()]
    try:
        with torch.no_grad():
            for _, ids, mask in batches(student, texts):
                real[:] = [mask.bool()]
                student.encoder(ids, mask)
    finally:
        for handle in handles:
            handle.remove()


def second_moments(student: Student, texts: Sequence[str], names: Sequence[str]) -> dict[str, Tensor]:
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


def taylor_importance(student: Student, texts: Sequence[str], logits: Tensor) -> list[Masks]:
    """First-order Taylor importance of every head and FFN neuron (Molchanov et al. 2017; Michel et al. 2019).

    The gradient of the distance to the teacher's logits (N, C) by a multiplier of 1 on each unit, in absolute value,
    summed over batches. One `Masks` a layer: heads (heads,), ffn (ffn,).
    """
    encoder = student.encoder
    masks = tuple(
        Masks(torch.ones(s.heads, requires_grad=True), torch.ones(s.ffn, requires_grad=True))
        for s in encoder.shape.layers
    )
    total = [Masks(torch.zeros(s.heads), torch.zeros(s.ffn)) for s in encoder.shape.layers]
    leaves = [t for m in masks for t in m]
    for chosen, ids, mask in batches(student, texts, size=8):
        found = encoder(ids, mask, masks).logits
        target = torch.softmax(logits[chosen], -1)
        loss = -(target * torch.log_softmax(found, -1)).sum()
        gradients = torch.autograd.grad(loss, leaves)
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
