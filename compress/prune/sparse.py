"""Sets the weights that matter least to zero, anywhere in a matrix or n of every m along its input.

`magnitude` takes the smallest weights of a matrix. `wanda` takes, for each output, those whose magnitude times the norm
of what they read is least (Sun et al. 2023, section 3). `sparsegpt` goes through the inputs in turn, takes the weights
that cost the outputs least, and lets those behind them make up for what is lost (Frantar & Alistarh 2023, algorithm 1;
Optimal Brain Surgeon, Hassibi 1993). The layers follow one another, each seen with those before it already sparse.

Zeros stay in place as numbers: no tensor gets smaller, and no engine of attar is faster for them. A distillation after
this step leaves them at zero (distill/zeros.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from attar.compress.prune.shrink import calibration
from attar.compress.statistics import matrices, moments
from attar.distill.checkpoint import require_finite
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text

NEVER_PAYS = "no engine of attar is faster for zeros, which stay in place as numbers"
DENSE = "unstructured"
IMPORTANCE = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True)
class Settings:
    """`sparsity`: the share of the weights of every matrix that become 0; `pattern`: `unstructured`, or `2:4`, two of
    any four that an output reads stay, or another n:m; `importance`: `magnitude`, `wanda` or `sparsegpt`; `texts`: how
    many training texts the last two see."""

    sparsity: float = 0.5
    pattern: str = DENSE
    importance: Literal["magnitude", "wanda", "sparsegpt"] = "sparsegpt"
    texts: int = 256

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCE:
            raise SettingsError(f"importance must be one of {', '.join(IMPORTANCE)}, not {self.importance!r}")
        if not 0 < self.sparsity < 1:
            raise SettingsError(f"sparsity must be above 0 and below 1, not {self.sparsity}")
        if self.pattern == DENSE:
            return
        stay, of = _numbers(self.pattern)
        if not 0 < stay < of:
            raise SettingsError(f'pattern must be {DENSE} or like "2:4", two of four stay, not {self.pattern!r}')
        if abs(self.sparsity - (1 - stay / of)) > 1e-6:
            raise SettingsError(f"pattern {self.pattern} needs sparsity = {1 - stay / of:.7g}, not {self.sparsity}")

    @property
    def group(self) -> int:
        """How many weights along the input share a number of zeros; 0: all of a matrix."""
        return 0 if self.pattern == DENSE else _numbers(self.pattern)[1]


def _numbers(pattern: str) -> tuple[int, int]:
    """n and m of n:m; zeros where it is not written so."""
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def lowest(scores: Tensor, share: float) -> Tensor:
    """Where the lowest `share` of each row of scores (rows, k) is: bool (rows, k); of equal ones the first."""
    order = scores.argsort(dim=-1, stable=True)[:, : round(share * scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)


def magnitude(weight: Tensor, share: float, group: int) -> Tensor:
    """The smallest weights (out, in) of the whole matrix, or of each group along the input, at zero."""
    rows = weight.reshape(-1, group or weight.numel())
    return rows.masked_fill(lowest(rows.abs(), share), 0.0).view_as(weight)


def wanda(weight: Tensor, moment: Tensor, share: float, group: int) -> Tensor:
    """Of each output, or of each group along its input, the weights of least |W| |x| at zero.

    weight (out, in); moment (in, in) is E[x x^T], whose diagonal is the squared norm but for the number of tokens.
    """
    size = group or weight.shape[1]
    scores = weight.abs().double() * moment.diagonal().clamp_min(0).sqrt()
    return weight.masked_fill(lowest(scores.reshape(-1, size), share).view_as(weight), 0.0)


def sparsegpt(weight: Tensor, moment: Tensor, share: float, group: int, block: int = 128, damp: float = 0.01) -> Tensor:
    """Weights (out, in) with zeros, the others changed such that the outputs move least, for E[x x^T] (in, in).

    Row q of the upper Cholesky factor of the inverse moment, over its diagonal, is how the weights behind q make up for
    one that is lost, where those before q are settled. Which go is chosen for `block` inputs at a time, or a group.
    """
    width = moment.shape[0]
    ridge = damp * moment.diagonal().mean().clamp_min(1e-12) * torch.eye(width, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment.double() + ridge))
    upper = torch.linalg.cholesky(inverse, upper=True)
    found = weight.detach().double().clone()
    for start in range(0, width, group or block):
        end = min(start + (group or block), width)
        part = found[:, start:end]
        cost = (part / upper.diagonal()[start:end]).square()
        gone = lowest(cost.reshape(-1, group or cost.numel()), share).view_as(cost)
        lost = torch.zeros_like(part)
        for place, q in enumerate(range(start, end)):
            lost[:, place] = torch.where(gone[:, place], part[:, place], 0.0) / upper[q, q]
            part[:, place:] -= torch.outer(lost[:, place], upper[q, q:end])
        part.masked_fill_(gone, 0.0)  # exactly, whatever the rounding of the subtraction
        found[:, end:] -= lost @ upper[start:end, end:]
    return found.to(weight.dtype)


def loss(change: Tensor, moment: Tensor) -> float:
    """E|D x|^2 of a change D (out, in) of the weights, for E[x x^T] (in, in)."""
    return float((change.double() @ moment * change.double()).sum())


def sparse(weight: Tensor, moment: Tensor, share: float, group: int) -> Tensor:
    """`sparsegpt`, or one of the others where that moves the outputs less: it chooses weights before it knows which
    later ones, which were to make up for them, go too. At three zeros in four that may cost more than it wins."""
    found = [f(weight, moment, share, group) for f in (sparsegpt, wanda)] + [magnitude(weight, share, group)]
    return min(found, key=lambda new: loss(new - weight, moment))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """A student of the same sizes with zeros in the matrices of its layers."""
    require_finite(student.transformer.state_dict())
    result = student.copy()
    found = matrices(result.transformer)
    _check_groups(found, settings)
    texts = () if settings.importance == "magnitude" else calibration(context, settings.texts)
    for index in range(len(result.transformer.layers)):
        _thin(result, {n: m for n, m in found.items() if n.startswith(f"layers.{index}.")}, texts, settings)
    zeros = sum(int((m.weight == 0).sum()) for m in found.values())
    weights = sum(m.weight.numel() for m in found.values())
    return result.with_step("compress.prune.sparse", asdict(settings), zeros=zeros, weights=weights, note=NEVER_PAYS)


def _check_groups(found: Mapping[str, nn.Linear], settings: Settings) -> None:
    for name, matrix in found.items():
        if settings.group and matrix.in_features % settings.group:
            raise SettingsError(
                f"pattern {settings.pattern}: {name} reads {matrix.in_features} inputs, no multiple of "
                f'{settings.group}; take pattern = "{DENSE}"'
            )


def _thin(student: Student, layer: Mapping[str, nn.Linear], texts: Sequence[Text], settings: Settings) -> None:
    """Writes zeros into the matrices of one layer."""
    share, group = settings.sparsity, settings.group
    seen = moments(student, texts, layer) if texts else {}
    for name, matrix in layer.items():
        weight = matrix.weight.detach()
        if settings.importance == "magnitude":
            new = magnitude(weight, share, group)
        elif settings.importance == "wanda":
            new = wanda(weight, seen[name].second, share, group)
        else:
            new = sparse(weight, seen[name].second, share, group)
        matrix.weight.data.copy_(new)
