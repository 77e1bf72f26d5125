"""What every factorization of the layers shares: ranks bought from one budget, the surgery, and the measured choice.

A method says how a matrix comes apart: `Apart` holds factors of full rank in the order of what they are worth, so that
any rank is a cut. Ranks are multiples of 8 below the break-even mn / (m + n), at which two small matrices have as many
entries as the one; what the budget does not need to take stays whole. A kind of matrix is replaced only where that is
faster on the measured engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attar.distill.checkpoint import require_finite
from attar.distill.encoder import MATRICES, LowRank, resized
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

STEP = 8
"""Ranks are multiples of it, for the kernels' sake."""


@dataclass(frozen=True)
class Budget:
    """`budget`: how many of the entries of the matrices in question may stay, as a fraction, shared out over layers
    and matrices; `matrices`: which kinds are tried, each kept only if it pays on the measured engine."""

    budget: float = 0.5
    matrices: tuple[str, ...] = ("ffn_in", "ffn_out")

    def __post_init__(self) -> None:
        if not 0 < self.budget < 1:
            raise SettingsError(
                f"budget is a fraction of the matrices' entries, above 0 and below 1, not {self.budget}"
            )
        wrong = [m for m in self.matrices if m not in MATRICES]
        if wrong or not self.matrices:
            raise SettingsError(f"unknown matrix {wrong[0] if wrong else '(none)'!r}; known: {', '.join(MATRICES)}")


class Apart(NamedTuple):
    """A matrix (m, n) taken apart: up (m, k) and down (k, n), k = min(m, n), whose product it is; `worth` (k,),
    falling: what is lost with each of the k terms, in a unit that is the same for all matrices of the method."""

    up: Tensor
    down: Tensor
    worth: Tensor

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """up (m, rank) and down (rank, n): the terms of most worth."""
        if not 1 <= rank <= len(self.worth):
            raise SettingsError(f"rank must be from 1 to the full {len(self.worth)}, not {rank}")
        return self.up[:, :rank].contiguous(), self.down[:rank].contiguous()

    @property
    def ranks(self) -> list[int]:
        """Those that a budget may choose: multiples of 8 with fewer entries than the whole; none if it is small."""
        m, n = self.up.shape[0], self.down.shape[1]
        return list(range(STEP, -(-m * n // (m + n)), STEP))

    def entries(self, rank: int | None) -> int:
        """How many numbers the matrix has, whole (`None`) or cut to a rank."""
        m, n = self.up.shape[0], self.down.shape[1]
        return m * n if rank is None else rank * (m + n)


def take_apart(weight: Tensor, root: Tensor, inverse: Tensor, *, relative: bool) -> Apart:
    """The truncations of W (m, n) that minimise |(W - U V) R|, R (n, n) with its inverse: the SVD of W R.

    By Eckart and Young no other factors of that rank do better. `worth` is each term's squared singular value,
    `relative` to the sum of them all.
    """
    u, s, v = torch.linalg.svd(weight.double() @ root, full_matrices=False)
    scale, worth = s.sqrt(), s.square()
    if relative:
        worth = worth / worth.sum().clamp_min(torch.finfo(worth.dtype).tiny)
    return Apart((u * scale).to(weight.dtype), ((scale[:, None] * v) @ inverse).to(weight.dtype), worth)


def dense(student: Student, kinds: Sequence[str]) -> dict[str, Tensor]:
    """The weights (m, n) of those matrices of the kinds that are still whole, by name (`layers.0.ffn_in`)."""
    found: dict[str, Tensor] = {}
    for i, layer in enumerate(student.transformer.layers):
        for kind in kinds:
            module = getattr(layer, kind)
            if isinstance(module, nn.Linear):
                weight = found[f"layers.{i}.{kind}"] = module.weight.detach()
                require_finite({f"layers.{i}.{kind}.weight": weight})
    return found


def share_out(apart: Mapping[str, Apart], budget: float) -> dict[str, int]:
    """Ranks of the matrices that do not stay whole, so that at most `budget` of all entries stay.

    Greedy: the cut that loses least per entry saved, again and again, each to any lower rank (the first one has to
    go below the break-even, where nothing is saved yet). The last cut goes only as far as it must.
    """
    rank: dict[str, int | None] = {name: None for name, a in apart.items() if a.ranks}
    if not rank:
        return {}
    entries = sum(apart[name].entries(None) for name in rank)
    least = sum(apart[name].entries(STEP) for name in rank)
    limit = int(budget * entries)
    if least > limit:
        raise SettingsError(f"budget {budget} cannot be met: with rank {STEP} everywhere {least / entries:.3g} stays")
    excess = entries - limit
    cuts = {name: _cuts(name, apart[name], None) for name in rank}
    while excess > 0:
        best = min(cut for own in cuts.values() for cut in own)
        if best.saved >= excess:
            enough = (cut for own in cuts.values() for cut in own if cut.saved >= excess)
            best = min(enough, key=lambda cut: (cut.lost, cut))
        rank[best.name], excess = best.rank, excess - best.saved
        cuts[best.name] = _cuts(best.name, apart[best.name], best.rank)
    return {name: r for name, r in rank.items() if r is not None}


class _Cut(NamedTuple):
    price: float
    lost: float
    name: str
    rank: int
    saved: int


def _cuts(name: str, apart: Apart, now: int | None) -> list[_Cut]:
    """All lower ranks of a matrix: what each loses per entry saved, and in all, and how much it saves."""
    worth, before, end = apart.worth, apart.entries(now), len(apart.worth) if now is None else now
    found = []
    for rank in apart.ranks:
        if rank < end:
            lost, saved = float(worth[rank:end].sum()), before - apart.entries(rank)
            found.append(_Cut(lost / saved, lost, name, rank, saved))
    return found


def factorized(student: Student, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Student:
    """A student whose named matrices (`layers.0.ffn_in`) are the products of up (m, r) and down (r, n)."""
    shapes = []
    for i, shape in enumerate(student.transformer.shape.layers):
        own = {m: factors[f"layers.{i}.{m}"][0].shape[1] for m in MATRICES if f"layers.{i}.{m}" in factors}
        shapes.append(replace(shape, ranks={**shape.ranks, **own}))
    encoder = resized(student.transformer, tuple(shapes))
    for i, (new, old) in enumerate(zip(encoder.layers, student.transformer.layers, strict=True)):
        for name, module in old.named_children():
            target, full = getattr(new, name), f"layers.{i}.{name}"
            if full in factors:
                assert isinstance(target, LowRank) and isinstance(module, nn.Linear)
                up, down = factors[full]
                target.load_state_dict({"down.weight": down, "up.weight": up, "up.bias": module.bias.detach()})
            else:
                target.load_state_dict(module.state_dict())
    return replace(student, encoder=encoder.eval())


def replace_where_it_pays(
    student: Student, use: str, settings: Budget, apart: Mapping[str, Apart], context: Context
) -> Student:
    """The student with every kind of matrix factorized that is faster so on the measured engine; perhaps none."""
    factors = {name: apart[name].cut(rank) for name, rank in share_out(apart, settings.budget).items()}
    chosen: dict[str, tuple[Tensor, Tensor]] = {}
    measured: dict[str, float] = {}
    for kind in settings.matrices:
        own = {name: pair for name, pair in factors.items() if name.endswith(f".{kind}")}
        if own:
            ratio = context.speedup(student, factorized(student, own))
            measured[kind] = round(ratio.ratio, 3)
            if ratio.low > 1.0:
                chosen |= own
    result = factorized(student, chosen) if chosen else student
    ranks = {name: up.shape[1] for name, (up, _) in chosen.items()}
    return result.with_step(use, asdict(settings), ranks=ranks, measured_speedup=measured)
