"""Word embeddings in fewer bits: int4 with a scale for every 32 values of a row, or int8 with one a row.

Each is exported and measured, the smallest first; the first that loses at most `max_loss` points on dev is taken, and
if none does the student stays as it is. Whatever else the plan says stays; of a student without one, all other matrices
stay in fp32. `compress.quantize.int8` writes a plan of its own, so this step belongs behind it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from attar.compress.quantize.plan import ROWS, QuantPlan
from attar.compress.statistics import matrices
from attar.distill.encoder import Encoder
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """`rows`: the kinds to try, `int4` or `int8`; `max_loss` in points on dev."""

    rows: tuple[str, ...] = ("int4", "int8")
    max_loss: float = 0.5

    def __post_init__(self) -> None:
        wrong = [r for r in self.rows if r not in ROWS[1:]]
        if wrong or not self.rows:
            raise SettingsError(f"unknown rows {wrong[0] if wrong else '(none)'!r}; known: {', '.join(ROWS[1:])}")


def plan_of(student: Student) -> QuantPlan:
    """The student's plan, or one that leaves everything in fp32."""
    found = QuantPlan.from_json(student.plan)
    if found is not None:
        return found
    names = matrices(student.encoder) if isinstance(student.encoder, Encoder) else {}
    whole = dict.fromkeys(name.removesuffix(".down").removesuffix(".up") for name in names)
    return QuantPlan(words="fp32", full=tuple(whole))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a plan that stores the rows so."""
    plan = plan_of(student)
    before, result = context.score(student), student
    tried: dict[str, float] = {}
    for rows in reversed(ROWS[ROWS.index(plan.words) + 1 :]):
        if rows in settings.rows:
            candidate = replace(student, plan=replace(plan, words=rows).to_json())
            tried[rows] = round(before - context.score(candidate), 3)
            if tried[rows] <= settings.max_loss:
                result = candidate
                break
    return result.with_step("compress.rows", asdict(settings), loss_points=tried)
