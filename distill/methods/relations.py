"""Self-attention relations (MiniLMv2, Wang et al. 2021, section 3.1): how each token's query, key and value is related
to those of all others. Only one layer is taught, and widths and numbers of heads may differ.

Where the student's last layer computes only the first token's row (all heads read that token alone), its queries are no
matrix, but its keys and values are. We teach these two rather than the layer before: the last layer then learns too,
and so does all below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from attar.distill.distributions import divergence, log_attention, scores
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision

KINDS = ("query", "key", "value")


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`layer` of the teacher (1-based), the last where none is named; the paper takes one below it of 24 layers.

    `relation_heads`: into how many equal parts both widths are split. `relations`: a list of query, key and value, or
    `all`: each that the student's last layer computes for every token.
    """

    layer: int | None = None
    relation_heads: int = 12
    relations: tuple[str, ...] | str = "all"

    def __post_init__(self) -> None:
        listed = () if self.relations == "all" else self.relations
        wrong = [listed] if isinstance(listed, str) else [kind for kind in listed if kind not in KINDS]
        if wrong or not self.relations:
            raise SettingsError(f"relations must be 'all' or a list of {', '.join(KINDS)}, not {self.relations!r}")
        if self.relation_heads < 1:
            raise SettingsError(f"relation_heads must be at least 1, not {self.relation_heads}")


def relation(student: Tensor, teacher: Tensor, heads: int, known: Tensor) -> Tensor:
    """KL(teacher || student) of softmax(X X^T / sqrt(d)) in each of `heads` parts of width d.

    States (B, T, W) of one kind, W of each its own; `known` (B, T) tokens alone relate, and are averaged over.
    """
    mine, theirs = (log_attention(scores(x, x, heads), known) for x in (student, teacher))
    return divergence(theirs, mine, known)


class _Relations(Method):
    def __init__(self, taught: Supervision, prefix: str, states: dict[str, str], heads: int) -> None:
        """`states`: by kind the name of the teacher's; `prefix`: the student's layer."""
        super().__init__()
        self.taught, self.heads = taught, heads
        self.states = {f"{prefix}.{kind}": state for kind, state in states.items()}
        self.watches = tuple(self.states)

    def forward(self, lesson: Lesson) -> Tensor:
        loss = lesson.batch.mask.new_zeros(()).float()
        for module, state in self.states.items():
            mine = lesson.inner[module]
            theirs, known = self.taught.states(state, lesson.batch, mine.shape[1])
            loss = loss + relation(mine, theirs, self.heads, known)
        return loss


def chosen(settings: Settings, student: Student) -> tuple[str, ...]:
    """The relations that this student can learn."""
    shape = student.transformer.shape
    full = KINDS[1:] if shape.first_only else KINDS
    if isinstance(settings.relations, str):
        return full
    if not set(settings.relations) <= set(full):
        raise SettingsError(
            "the student's last layer computes the query of the first token alone, so it has no query relations; "
            "choose key and value"
        )
    return settings.relations


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    layer = depth if settings.layer is None else settings.layer
    if not 1 <= layer <= depth:
        raise SettingsError(f"layer: {layer} is not one of the teacher's {depth} layers (counted from 1)")
    return tuple(f"{kind}{layer}" for kind in chosen(settings, student))


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    states = dict(zip(chosen(settings, student), needs(settings, student, taught.depth), strict=True))
    last = student.transformer.shape.layers[-1]
    widths = last.heads * last.head_size, taught.width(next(iter(states.values())))
    common = math.gcd(*widths)
    if common % settings.relation_heads:
        fitting = ", ".join(str(n) for n in range(1, min(common, 128) + 1) if common % n == 0)
        raise SettingsError(
            f"relation_heads = {settings.relation_heads} does not divide the student's width {widths[0]} and the "
            f"teacher's {widths[1]}; these do: {fitting}"
        )
    return _Relations(taught, f"layers.{student.encoder.depth - 1}", states, settings.relation_heads)
