"""Buys back the accuracy that quantization lost, by the cheapest repairs: a matrix back to a scale a token, what it
reads smoothed (SmoothQuant), or the matrix in fp32.

The matrices that are blamed most come first; among them the repair that takes away most of the outputs' distance for
the time that it costs, as measured on this machine. When these are done, the rest is blamed anew. Where no plan holds
the margin, the nearest one is trained under its rounding (`recover`), which costs an answer no time. It stops
when the student is inside the margin, or says what stopped it: no repair that helps, a student no faster than in fp32,
a training that won too little. A student without a plan begins with int8 per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from attar.compress.blame import Part, alone, distance, layers, plan_of, ranked, without, worst
from attar.compress.quantize import aware, int8
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.smooth import readers
from attar.distill.step import Context, settings_of
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Outputs

REPAIRS = ("per_token", "smooth", "full")
LEAST_COST = 1e-3
"""A share of the time: no repair is taken to cost less, since no measurement here is that exact."""
ALPHA = 0.5
"""How much of the outliers smoothing moves into the weights; half, as SmoothQuant has it for most models."""
TEXTS = 256
"""How many training texts smoothing looks at."""
Way = Callable[[Student, str], Student]
"""A repair: the student with one more of its matrices, by name, in order."""


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


def smooth(student: Student, name: str, smoothed: QuantPlan) -> Student:
    """The norm that the matrix reads is divided as `smoothed` has it, for every matrix that reads it.

    Their static scales are those of `smoothed`; their shifts, which were for other errors, go.
    """
    plan = plan_of(student)
    for norm, names in readers(student.transformer).items():
        if plan.kind == "int8" and name in (n.removesuffix(".down") for n in names):
            scales = {n: smoothed.scales[n] if n in names else scale for n, scale in plan.scales.items()}
            shifts = {n: shift for n, shift in plan.shifts.items() if n not in names}
            divided = {**plan.smooth, norm: smoothed.smooth[norm]}
            return replace(student, plan=replace(plan, scales=scales, shifts=shifts, smooth=divided).to_json())
    return student


def ways(names: tuple[str, ...], student: Student, context: Context) -> dict[str, Way]:
    """The repairs of these names, for this student; what smoothing needs is measured once."""
    found: dict[str, Way] = {"per_token": per_token, "full": full}
    if "smooth" in names:
        texts = context.some(TEXTS)
        if len(texts) < 2:
            raise SettingsError(
                f"compress.heal: smooth looks at training texts, and there are {len(texts)}: give a few hundred, or "
                'set repairs = ["per_token", "full"]'
            )
        wanted = int8.Settings(bits=8, smooth=ALPHA)
        smoothed = int8.planned("static", replace(student, plan=None), texts, wanted)
        found["smooth"] = lambda healed, name: smooth(healed, name, smoothed)
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class Settings:
    """`margin`: points on dev that the student may lose against itself in fp32; `repairs`: which may be used.

    `least_speedup`: how many times as fast as in fp32 the student must stay. `recover`: where no repair is
    enough, a distillation under the rounding with these settings of `compress.quantize.aware`; empty: none.
    """

    margin: float = 0.5
    repairs: tuple[str, ...] = REPAIRS
    least_speedup: float = 1.0
    recover: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 100:
            raise SettingsError(f"compress.heal: margin must be at least 0 and below 100 points, not {self.margin!r}")
        if "bits" in self.recover:
            raise SettingsError("compress.heal: bits in recover would contradict the plan; leave it out")
        settings_of(aware.Settings, self.recover, "compress.heal: recover")
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
    """The student with a plan that holds the margin, or the nearest that the limits allow."""
    now = student if student.plan else replace(student, plan=QuantPlan().to_json())
    if settings.recover and plan_of(now).kind != "int8":
        raise SettingsError(
            f"compress.heal: recover trains under the rounding of int8, not of {plan_of(now).scheme}; leave it out"
        )
    reference = context.score(replace(student, plan=None))
    now, score, done, limit = repaired(now, reference, settings, context)
    facts: dict[str, Any] = {"repaired": done}
    if limit and settings.recover:
        lessons = settings_of(aware.Settings, settings.recover, "compress.heal: recover")
        trained, _ = aware.trained(now, plan_of(now), lessons, context)
        won = context.score(trained) - score
        facts["recovered_points"] = round(won, 3)
        if won > 0:  # what training made worse stays as it was
            now, score = trained, score + won
        held = reference - score <= settings.margin
        limit = "" if held else f"{limit}, and {lessons.epochs:g} epochs of recovery won {won:.2f} points"
    facts |= {"loss_points": round(reference - score, 3), "inside": not limit, "limit": limit}
    return now.with_step("compress.heal", asdict(settings), **facts)


def repaired(
    now: Student, reference: float, settings: Settings, context: Context
) -> tuple[Student, float, dict[str, list[str]], str]:
    """The student repaired until it is inside the margin below `reference`: it, its points, what was done by matrix,
    and the limit that stopped it, empty where none did."""
    fp32, score = replace(now, plan=None), context.score(now)
    done, left = dict[str, list[str]](), list[Repair]()
    if reference - score <= settings.margin:
        return now, score, done, ""
    outputs, known = context.outputs(fp32)[1], ways(settings.repairs, now, context)
    while reference - score > settings.margin:
        left = left or repairs(now, known, context, outputs)
        if not left:
            return now, score, done, f"none of the repairs {', '.join(settings.repairs)} helps any more"
        repair, *left = left
        healed = known[repair.how](now, repair.name)
        if healed.plan == now.plan or "full" in done.get(repair.name, ()):
            continue  # an earlier one of this round did as much
        speed = context.speedup(fp32, healed).ratio
        if speed < settings.least_speedup:
            return now, score, done, f"with {repair.name} repaired it is {speed:.2f}x as fast as in fp32"
        now, score = healed, context.score(healed)
        done.setdefault(repair.name, []).append(repair.how)
    return now, score, done, ""


def repairs(student: Student, known: Mapping[str, Way], context: Context, reference: Outputs) -> list[Repair]:
    """The repairs of the worst matrices in the worst parts, those of the least cost for what they win first."""
    parts = {
        layer: [n for n in names if any(way(student, n).plan != student.plan for way in known.values())]
        for layer, names in layers(student).items()
    }
    able = {layer: names for layer, names in parts.items() if names}
    bad = worst(ranked(student, able, context.outputs, reference))
    matrices = ranked(student, {n: (n,) for part in bad for n in part.matrices}, context.outputs, reference)
    found = [repair for part in worst(matrices) for repair in _of(student, part, known, context, reference)]
    return sorted(found, key=lambda r: -r.gain / r.cost)


def _of(
    student: Student, part: Part, known: Mapping[str, Way], context: Context, reference: Outputs
) -> Iterator[Repair]:
    for how, way in known.items():
        healed = way(student, part.name)
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
