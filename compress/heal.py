"""Buys back the accuracy that quantization lost, by the cheapest repairs: a matrix back to a scale a token, or to fp32.

The matrices that are blamed most come first; among them the repair that takes away most of the outputs' distance for
the time that it costs, as measured on this machine. When these are done, the rest is blamed anew. It stops when the
student is inside the margin, or says what stopped it: no repair that helps, or a student no faster than in fp32. A
student without a plan begins with int8 per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from attar.compress.blame import Part, alone, distance, layers, plan_of, ranked, without, worst
from attar.compress.quantize.plan import QuantPlan
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Outputs

LEAST_COST = 1e-3
"""A share of the time: no repair is taken to cost less, since no measurement here is that exact."""


def per_token(student: Student, name: str) -> Student:
    """The matrix's activations get a scale of each token in place of a calibrated one.

    Query, key and value read the same activations, which are quantized once: for all three.
    """
    plan, (layer, _, kind) = plan_of(student), name.rpartition(".")
    together = ("query", "key", "value") if kind in ("query", "key", "value") else (kind,)
    freed = tuple(f"{layer}.{other}" for other in together)
    scales = {k: v for k, v in plan.scales.items() if k.removesuffix(".down").removesuffix(".up") not in freed}
    return replace(student, plan=replace(plan, scales=scales).to_json())


def full(student: Student, name: str) -> Student:
    """The matrix, or the table of word embeddings, goes back to fp32."""
    return without(student, [name])


REPAIRS: Mapping[str, Callable[[Student, str], Student]] = {"per_token": per_token, "full": full}


@dataclass(frozen=True)
class Settings:
    """`margin`: points on dev that the student may lose against itself in fp32; `repairs`: which may be used.

    `least_speedup`: how many times as fast as in fp32 the student must stay.
    """

    margin: float = 0.5
    repairs: tuple[str, ...] = tuple(REPAIRS)
    least_speedup: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 100:
            raise SettingsError(f"compress.heal: margin must be at least 0 and below 100 points, not {self.margin!r}")
        wrong = [r for r in self.repairs if r not in REPAIRS]
        if wrong or not self.repairs:
            raise SettingsError(f"unknown repair {wrong[0] if wrong else '(none)'!r}; known: {', '.join(REPAIRS)}")


@dataclass(frozen=True)
class Repair:
    """`gain`: how much nearer the outputs get; `cost`: how much longer an answer takes, as a share of the time."""

    name: str
    how: str
    gain: float
    cost: float


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a plan that holds the margin, or the nearest that the limits allow."""
    fp32 = replace(student, plan=None)
    reference, outputs = context.score(fp32), context.outputs(fp32)[1]
    now = student if student.plan else replace(student, plan=QuantPlan().to_json())
    score, done, limit, left = context.score(now), dict[str, str](), "", list[Repair]()
    while reference - score > settings.margin:
        left = left or repairs(now, settings.repairs, context, outputs)
        if not left:
            limit = f"none of the repairs {', '.join(settings.repairs)} helps any more"
            break
        repair, *left = left
        healed = REPAIRS[repair.how](now, repair.name)
        if healed.plan == now.plan or done.get(repair.name) == "full":
            continue  # an earlier one of this round did as much
        speed = context.speedup(fp32, healed).ratio
        if speed < settings.least_speedup:
            limit = f"with {repair.name} repaired it is {speed:.2f}x as fast as in fp32"
            break
        now, score = healed, context.score(healed)
        done[repair.name] = repair.how
    facts = {"loss_points": round(reference - score, 3), "repaired": done, "inside": not limit, "limit": limit}
    return now.with_step("compress.heal", asdict(settings), **facts)


def repairs(student: Student, allowed: Sequence[str], context: Context, reference: Outputs) -> list[Repair]:
    """The repairs of the worst matrices in the worst parts, those of the least cost for what they win first."""
    parts = {
        layer: [n for n in names if any(REPAIRS[how](student, n).plan != student.plan for how in allowed)]
        for layer, names in layers(student).items()
    }
    able = {layer: names for layer, names in parts.items() if names}
    bad = worst(ranked(student, able, context.outputs, reference))
    matrices = ranked(student, {n: (n,) for part in bad for n in part.matrices}, context.outputs, reference)
    found = [repair for part in worst(matrices) for repair in _of(student, part, allowed, context, reference)]
    return sorted(found, key=lambda r: -r.gain / r.cost)


def _of(student: Student, part: Part, allowed: Sequence[str], context: Context, reference: Outputs) -> Iterator[Repair]:
    for how in allowed:
        healed = REPAIRS[how](student, part.name)
        if healed.plan == student.plan:
            continue
        left = 0.0
        if how != "full":
            left = distance(student.task, context.outputs(alone(healed, part.matrices))[1], reference)
        gain = part.distance - left
        if gain > 0:
            # The upper end of the interval: noise makes no repair look free.
            cost = max(context.speedup(healed, student).high - 1.0, LEAST_COST)
            yield Repair(part.name, how, gain, cost)
