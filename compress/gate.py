"""The accuracy gate: is the student at most `margin` points worse than the teacher, beyond reasonable doubt?

Teacher and student answer the same examples, so the answers are paired and only the examples on which they
differ say anything about the difference. Where an answer is right or wrong, the test is Tango's score test of
non-inferiority for paired proportions (T. Tango, "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design", Statistics in Medicine 17:891-908, 1998). It holds its level for small
samples and rare disagreement, where the usual Wald interval is too short: with no disagreement at all Wald's has
length zero, and any ten examples would "prove" a student. Other measures are judged by the paired bootstrap of
`bootstrap.py`, with the same care for models that never differ.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from attar.compress import bootstrap
from attar.runtime import metrics
from attar.runtime.errors import DataError, SettingsError

OWN = "the model's own answers"
"""Labels where there were none: the teacher is right by definition, and the student is where it agrees."""
Outcome = Literal["pass", "fail", "not enough data"]
SHARED = 2.0
"""How many examples of retrieval tell as much as one that is independent: those of recall@k share their neighbours and
classes. The variance of their difference was 1.1 to 1.9 times that of independent answers, and taken for those up to
10.6 % of the students at the margin passed instead of 5 % (benchmarks/gate.py, benchmarks/NOTES.md)."""


class VerdictRecord(TypedDict):
    """A verdict as JSON: the fields of `Verdict`; older bundles lack `measure`, which was accuracy, and `labels`."""

    verdict: Outcome
    difference: float
    lower_bound: float
    margin: float
    confidence: float
    n: int
    teacher: float
    student: float
    needed: int | None
    measure: NotRequired[str]
    labels: NotRequired[str]


@dataclass(frozen=True)
class GateSettings:
    """How much accuracy may be lost, and how sure we must be that no more was lost."""

    margin: float = 2.0
    """Points of accuracy, or of another measure, that the student may lose; above 0 and below 100."""
    confidence: float = 0.95
    """One-sided confidence of the lower bound; at least 0.5 and below 1."""

    def __post_init__(self) -> None:
        for name, value in (("margin", self.margin), ("confidence", self.confidence)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SettingsError(f"gate: {name} must be a number, not {value!r}")
        # Written so that NaN, which compares false with everything, is refused too.
        if not 0 < self.margin < 100:
            raise SettingsError(f"gate: margin must be above 0 and below 100 points, not {self.margin!r}")
        if not 0.5 <= self.confidence < 1:
            raise SettingsError(f"gate: confidence must be at least 0.5 and below 1, not {self.confidence!r}")


@dataclass(frozen=True)
class Verdict:
    """What the gate says, with the numbers it rests on; all in points of the measure, so accuracies in %."""

    verdict: Outcome
    difference: float
    """Student minus teacher."""
    lower_bound: float
    """One-sided lower confidence bound of `difference`."""
    margin: float
    confidence: float
    n: int
    teacher: float
    student: float
    needed: int | None
    """How many more examples would do at the observed rates; only for 'not enough data'."""
    measure: str = "accuracy"
    labels: str = "given"
    """`OWN` where the teacher's own answers stood in for labels."""

    def to_json(self) -> VerdictRecord:
        """The fields as plain JSON values."""
        return cast(VerdictRecord, asdict(self))

    def sentence(self) -> str:
        """One line for the terminal."""
        return sentence(self.to_json())


def judge(teacher: NDArray[Any], student: NDArray[Any], settings: GateSettings, measure: str = "accuracy") -> Verdict:
    """Compare two models on the same N examples by a measure's statistics, as `metrics.check` wants them.

    Bool (N,), True where the model is right, for Tango's test; other statistics for the bootstrap. `DataError`
    where they are of another form, or not of the same examples.
    """
    teacher, student = _checked("teacher", teacher, measure), _checked("student", student, measure)
    n = len(teacher)
    if n != len(student):
        raise DataError(f"gate: {n} teacher answers but {len(student)} student answers")
    if teacher.ndim == 2 and not np.array_equal(teacher[:, -1], student[:, -1]):
        raise DataError(f"gate: in {measure}, teacher and student differ in what is right; give both the same examples")
    find = _tango if metrics.form(measure) == "right" else _bootstrap
    difference, lower, needed = find(teacher, student, settings, measure)
    outcome: Outcome = "pass"
    if difference <= -settings.margin:
        outcome = "fail"
    elif lower < -settings.margin:
        outcome = "not enough data"
    return Verdict(
        verdict=outcome,
        difference=difference,
        lower_bound=lower,
        margin=float(settings.margin),
        confidence=float(settings.confidence),
        n=n,
        teacher=metrics.points(measure, teacher),
        student=metrics.points(measure, student),
        needed=needed() if outcome == "not enough data" else None,
        measure=measure,
    )


def judge_all(
    teacher: Mapping[str, NDArray[Any]], student: Mapping[str, NDArray[Any]], measures: Sequence[str],
    settings: GateSettings,
) -> tuple[Verdict, ...]:  # fmt: skip
    """One verdict a measure, from the statistics of each; only if all pass does the student (see `worst`).

    No correction for their number is needed: a student that is too bad in one measure must pass in that one too, and
    there the chance is at most 1 - confidence. This is an intersection-union test (R. L. Berger, "Multiparameter
    hypothesis testing and acceptance sampling", Technometrics 24:295-300, 1982).
    """
    for name, found in (("teacher", teacher), ("student", student)):
        if missing := [measure for measure in measures if measure not in found]:
            raise DataError(
                f"gate: the {name} has no statistics of {missing[0]!r}; known: {', '.join(found) or 'none'}"
            )
    return tuple(judge(teacher[measure], student[measure], settings, measure) for measure in measures)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that decides: fail before not enough data before pass, then the lowest bound plus margin."""
    if not verdicts:
        raise DataError("gate: no measure to judge by")
    order: tuple[Outcome, ...] = ("fail", "not enough data", "pass")
    return min(verdicts, key=lambda v: (order.index(v.verdict), v.lower_bound + v.margin))


def score(teacher_only: float, student_only: float, n: float, delta: float) -> float:
    """Tango's statistic for the hypothesis that student minus teacher is `delta`, -1 < delta < 1.

    About standard normal under the hypothesis; falls as `delta` grows and is 0 at the observed difference.
    Counts may be fractions: only the rates and n matter.
    """
    # The maximum-likelihood P(only the teacher is right), given the difference, is the larger root of
    # a q^2 + b q + c = 0 (Tango 1998).
    a = 2.0 * n
    b = (2.0 * n - student_only + teacher_only) * delta - student_only - teacher_only
    c = -teacher_only * delta * (1.0 - delta)
    root = math.sqrt(max(b * b - 4.0 * a * c, 0.0))
    # The same root in two forms, each free of cancellation on its side.
    q = (root - b) / (2.0 * a) if b <= 0 else -2.0 * c / (root + b)
    variance = n * (2.0 * max(q, -delta, 0.0) + delta * (1.0 - delta))
    gap = student_only - teacher_only - n * delta
    if variance <= 0.0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(variance)


def lower_bound(teacher_only: float, student_only: float, n: float, confidence: float) -> float:
    """The one-sided lower confidence bound of student minus teacher, as a fraction: the score inverted."""
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, (student_only - teacher_only) / n
    while True:
        middle = (low + high) / 2.0
        if not low < middle < high:  # two neighbouring doubles: no number is left between them
            return low
        if score(teacher_only, student_only, n, middle) > z:
            low = middle  # so unlikely a difference is rejected: the bound lies above it
        else:
            high = middle


def sentence(record: VerdictRecord) -> str:
    """A verdict in one line, from its JSON form."""
    # Rounded down, so that the bound never looks better than it is: -2.04 must not read as -2.0.
    bound = math.floor(record["lower_bound"] * 10 + 1e-9) / 10
    measure = record.get("measure", "accuracy")
    unit, name = (" %", "") if measure == "accuracy" else ("", f" {measure}")
    text = (
        f"{record['verdict'].upper()}: "
        f"student {record['student']:.1f}{unit} vs teacher {record['teacher']:.1f}{unit}{name}: "
        f"{signed(record['difference'])} points, "
        f"{100 * record['confidence']:g} % lower bound {signed(bound)}, "
        f"margin {_margin(record['margin'])}, {record['n']:,} examples"
    )
    if record.get("labels") == OWN:
        text += f"; by {OWN}: an agreement, not an accuracy"
    if record["needed"] is not None:
        text += f"; about {record['needed']:,} more needed at these rates"
    return text


def signed(points: float) -> str:
    """A difference with its sign and one decimal, and no sign for zero."""
    rounded = round(points, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def _margin(points: float) -> str:
    """At least one decimal, and all that were given: 2.0, 0.25."""
    return f"{points:.1f}" if round(points, 1) == points else f"{points:g}"


Found = tuple[float, float, Callable[[], int]]
"""Difference and its lower bound, in points, and how many more examples would do where the bound is too low."""


def _tango(teacher: NDArray[Any], student: NDArray[Any], settings: GateSettings, measure: str) -> Found:
    n, each = len(teacher), SHARED if "recall@" in measure else 1.0
    # Plain numbers: the arithmetic of `score` squares them, which must not wrap around.
    teacher_only = float(np.count_nonzero(teacher & ~student))
    student_only = float(np.count_nonzero(student & ~teacher))
    told = teacher_only / each, student_only / each, n / each
    lower = 100.0 * lower_bound(*told, settings.confidence)

    def needed() -> int:
        z = NormalDist().inv_cdf(settings.confidence)
        # At fixed rates the statistic grows with the square root of n, so no search is needed.
        now = score(*told, -settings.margin / 100.0)
        return max(1, math.ceil(n * (z / now) ** 2) - n)

    return 100.0 * (student_only - teacher_only) / n, lower, needed


def _bootstrap(teacher: NDArray[Any], student: NDArray[Any], settings: GateSettings, measure: str) -> Found:
    n, confidence = len(teacher), settings.confidence
    difference = metrics.points(measure, student) - metrics.points(measure, teacher)
    bound = bootstrap.percentile_bound(measure, teacher, student, confidence)
    gap, slack = max(0.0, difference - bound), settings.margin + difference
    # No model can be further down than the end of the scale.
    lower = max(difference - bootstrap.widened(gap, n, confidence), min(difference, -100.0))
    return difference, lower, lambda: bootstrap.needed(gap, slack, n, confidence)


def _checked(role: str, statistics: NDArray[Any], measure: str) -> NDArray[Any]:
    try:
        return metrics.check(measure, statistics)
    except DataError as error:
        raise DataError(f"gate: {role}: {error}") from error
