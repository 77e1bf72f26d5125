"""The accuracy gate: is the student at most `margin` points worse than the teacher, beyond reasonable doubt?

Teacher and student answer the same examples, so the answers are paired and only the examples on which they
differ say anything about the difference. The test is Tango's score test of non-inferiority for paired
proportions (T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17:891-908, 1998). It holds its level for small samples and rare
disagreement, where the usual Wald interval is too short: with no disagreement at all Wald's has length zero,
and any ten examples would "prove" a student.
"""

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Literal, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError

Outcome = Literal["pass", "fail", "not enough data"]


class VerdictRecord(TypedDict):
    """A verdict as JSON: the fields of `Verdict`."""

    verdict: Outcome
    difference: float
    lower_bound: float
    margin: float
    confidence: float
    n: int
    teacher: float
    student: float
    needed: int | None


@dataclass(frozen=True)
class GateSettings:
    """How much accuracy may be lost, and how sure we must be that no more was lost."""

    margin: float = 2.0
    """Points of accuracy that the student may lose; above 0 and below 100."""
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
    """What the gate says, with the numbers it rests on; accuracies in %, differences in points."""

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

    def to_json(self) -> VerdictRecord:
        """The fields as plain JSON values."""
        return cast(VerdictRecord, asdict(self))

    def sentence(self) -> str:
        """One line for the terminal."""
        return sentence(self.to_json())


def judge(teacher_correct: NDArray[np.bool_], student_correct: NDArray[np.bool_], settings: GateSettings) -> Verdict:
    """Compare two models on the same N examples; both arrays are bool (N,), True where the model is right."""
    teacher, student = np.asarray(teacher_correct), np.asarray(student_correct)
    _check(teacher, student)
    n = int(teacher.size)
    # Plain ints: the arithmetic below squares them, which must not wrap around.
    teacher_only = int(np.count_nonzero(teacher & ~student))
    student_only = int(np.count_nonzero(student & ~teacher))
    difference = 100.0 * (student_only - teacher_only) / n
    lower = 100.0 * lower_bound(teacher_only, student_only, n, settings.confidence)
    outcome: Outcome = "pass"
    needed = None
    if difference <= -settings.margin:
        outcome = "fail"
    elif lower < -settings.margin:
        outcome = "not enough data"
        needed = _needed(teacher_only, student_only, n, settings)
    return Verdict(
        verdict=outcome,
        difference=difference,
        lower_bound=lower,
        margin=float(settings.margin),
        confidence=float(settings.confidence),
        n=n,
        teacher=100.0 * int(np.count_nonzero(teacher)) / n,
        student=100.0 * int(np.count_nonzero(student)) / n,
        needed=needed,
    )


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


def lower_bound(teacher_only: int, student_only: int, n: int, confidence: float) -> float:
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
    text = (
        f"{record['verdict'].upper()}: "
        f"student {record['student']:.1f} % vs teacher {record['teacher']:.1f} %: "
        f"{signed(record['difference'])} points, "
        f"{100 * record['confidence']:g} % lower bound {signed(bound)}, "
        f"margin {_margin(record['margin'])}, {record['n']:,} examples"
    )
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


def _needed(teacher_only: int, student_only: int, n: int, settings: GateSettings) -> int:
    """How many more examples make the bound reach the margin, if both models keep their rates."""
    z = NormalDist().inv_cdf(settings.confidence)
    # At fixed rates the statistic grows with the square root of n, so no search is needed.
    now = score(teacher_only, student_only, n, -settings.margin / 100.0)
    return max(1, math.ceil(n * (z / now) ** 2) - n)


def _check(teacher: NDArray[np.bool_], student: NDArray[np.bool_]) -> None:
    for name, array in (("teacher", teacher), ("student", student)):
        if array.ndim != 1:
            raise DataError(f"gate: {name}_correct must have one dimension, not shape {array.shape}")
        if array.size == 0:
            raise DataError("gate: no examples to judge by")
        if array.dtype != np.bool_:
            raise DataError(f"gate: {name}_correct must hold booleans, not {array.dtype}")
    if teacher.size != student.size:
        raise DataError(f"gate: {teacher.size} teacher answers but {student.size} student answers")
