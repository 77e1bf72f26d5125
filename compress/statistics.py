"""What pruning, factorization and calibration measure on real texts: means, second moments, largest values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attar.distill.batches import batches
from attar.distill.encoder import MATRICES, Encoder
from attar.distill.student import Student
from attar.runtime.tokenizer import Text


def matrices(encoder: Encoder) -> dict[str, nn.Linear]:
    """Every linear map of the layers by name (`layers.0.query`, or `layers.0.query.down` where factorized)."""
    found = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear) and n.startswith("layers.")}
    return {n: m for n, m in found.items() if n.split(".")[2] in MATRICES}


def observe(
    student: Student,
    texts: Sequence[Text],
    see: Callable[[str, Tensor], None],
    modules: Mapping[str, nn.Module] | None = None,
) -> None:
    """Calls `see(name, x)` with the input (tokens, in) of every module, padding left out, one batch at a time.

    `modules` are parts of the student's network by name; all matrices of its layers where none are given. One that
    reads a row as a whole, as some output heads do, is seen with its rows (rows, in).
    """
    real: list[Tensor] = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            see(name, x if x.dim() == 2 else x[real[0][:, : x.shape[1]]])

        return record

    chosen = matrices(student.transformer) if modules is None else modules
    handles = [m.register_forward_pre_hook(hook(n)) for n, m in chosen.items()]
    try:
        with torch.no_grad():
            for batch in batches(student.encode(texts), student.pad_id, 32):
                real[:] = [batch.mask.bool()]
                student.encoder(*batch.inputs)
    finally:
        for handle in handles:
            handle.remove()


class Moments(NamedTuple):
    """Of the inputs of a matrix: their mean (in,) and E[x x^T] (in, in), float64."""

    mean: Tensor
    second: Tensor

    @property
    def covariance(self) -> Tensor:
        """(in, in), its diagonal raised by what sums in float32 cannot tell from 0: inputs that hardly vary are told
        apart by their weights then, not by noise."""
        floor = 1e-5 * self.second.diagonal().mean()
        return self.second - torch.outer(self.mean, self.mean) + floor * torch.eye(len(self.mean), dtype=torch.float64)


def moments(student: Student, texts: Sequence[Text], modules: Mapping[str, nn.Module]) -> dict[str, Moments]:
    """Mean and second moment of the inputs of each module, over all real tokens."""
    sums: dict[str, Moments] = {}
    counts = dict.fromkeys(modules, 0)

    def see(name: str, x: Tensor) -> None:
        found = Moments(x.sum(0).double(), (x.T @ x).double())
        sums[name] = Moments(*(a + b for a, b in zip(sums[name], found, strict=True))) if name in sums else found
        counts[name] += x.shape[0]

    observe(student, texts, see, modules)
    return {name: Moments(total.mean / counts[name], total.second / counts[name]) for name, total in sums.items()}


def second_moments(student: Student, texts: Sequence[Text], names: Sequence[str]) -> dict[str, Tensor]:
    """E[x x^T] of the inputs of the named matrices: (in, in) float64 each."""
    chosen = {name: module for name, module in matrices(student.transformer).items() if name in names}
    return {name: found.second for name, found in moments(student, texts, chosen).items()}


def refit(weight: Tensor, moment: Tensor, kept: Tensor, damp: float = 1e-3) -> Tensor:
    """Least squares: the columns `kept` (k,) of weight (out, in) that best reproduce its outputs -> (out, k).

    Minimises E|W x - V x_kept|^2 with the second moment (in, in) of x (as in Optimal Brain Surgeon, Hassibi 1993);
    with the covariance of x the same up to a constant, for which `refit_bias` stands.
    The damping draws V towards the old columns, so that nothing changes where nothing was lost.
    """
    old = weight[:, kept].double()
    inner = moment[kept][:, kept]
    lost = weight.double() @ moment[:, kept] - old @ inner
    ridge = damp * inner.diagonal().mean().clamp_min(1e-12)
    solved: Tensor = torch.linalg.solve(inner + ridge * torch.eye(len(kept), dtype=inner.dtype), lost.T)
    return (old + solved.T).to(weight.dtype)


def refit_bias(weight: Tensor, bias: Tensor, new: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """The bias (out,) with which `new` (out, k) gives the same mean output as weight (out, in) did, for inputs of this
    mean (in,): an input that never varies is lost without any loss."""
    shift = weight.double() @ mean - new.double() @ mean[kept]
    return (bias.double() + shift).to(bias.dtype)
