"""How often the gate lets a student pass whose true loss is exactly the margin: it should at most 5 times in 100.

python benchmarks/gate.py [models, 1000]

Every model is drawn from a population whose difference to its teacher is known, by a formula or as the mean over far
more draws, and the margin is that difference: a pass is a false accept. Where answers are right or wrong, the level of
the test is computed too, by summing the probabilities of all outcomes that pass; a share counted over 1,000 models is
itself uncertain by 0.7 (one standard error).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from gate_coverage import CONFIDENCE, Pair, answer_f1, entity_f1, similarity
from numpy.typing import NDArray

from attar.compress.gate import GateSettings, judge, score
from attar.runtime.metrics import points

SEED = 20_261_123


def right_or_wrong(n: int, random: np.random.Generator, lost: float, won: float) -> Pair:
    """A share `lost` of the answers only the teacher has right, a share `won` only the student."""
    drawn = random.random(n)
    both = drawn < 0.8
    return both | (drawn >= 1 - lost), both | ((drawn >= 0.8) & (drawn < 0.8 + won))


def labels_f1(n: int, random: np.random.Generator, differing: float) -> Pair:
    """Several labels a text; of those that the teacher finds the student misses some."""
    actual = 1 + random.binomial(9, 0.15, n)
    right, wrong = random.binomial(actual, 0.85), random.binomial(2, 0.1, n)
    own = right - random.binomial(right, differing)
    return np.stack([right, right + wrong, actual], 1), np.stack([own, own + wrong, actual], 1)


def retrieval(n: int, random: np.random.Generator, spread: float, noise: float, same: bool = False) -> Pair:
    """Recall@1 among the texts themselves, so that examples share their neighbours: vectors of 50 classes, which are
    the `same` in every draw or others."""
    classes = np.arange(n) % 50
    centres = (np.random.default_rng(SEED) if same else random).normal(0, 1, (50, 24))
    teacher = centres[classes] + random.normal(0, spread, (n, 24))
    student = teacher + random.normal(0, noise, (n, 24))
    return nearest_is_right(teacher, classes), nearest_is_right(student, classes)


def nearest_is_right(vectors: NDArray[np.float64], classes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Whether the nearest other vector, by cosine, is of the same class: (N, D) -> (N,)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(classes[cosines.argmax(axis=1)] == classes)


@dataclass(frozen=True)
class Scene:
    """A population of models: `draw(n, random)`, by which measure they are judged, and how its truth is known.

    `rates`: of answers that only the teacher, and only the student, has right; else the truth is the mean difference
    over `sets` draws of `size` examples each (None: of as many as are judged, where the measure depends on that).
    `judged`: how many examples the gate sees.
    """

    title: str
    measure: str
    draw: Callable[[int, np.random.Generator], Pair]
    rates: tuple[float, float] | None = None
    size: int | None = 400_000
    sets: int = 5
    judged: tuple[int, ...] = (200, 600)

    def margin(self, n: int) -> float:
        """The true loss in points."""
        if self.rates:
            return 100 * (self.rates[0] - self.rates[1])
        random = np.random.default_rng(SEED + 1)
        drawn = (self.draw(self.size or n, random) for _ in range(self.sets))
        return float(np.mean([points(self.measure, t) - points(self.measure, s) for t, s in drawn]))

    def accepted(self, n: int, models: int) -> tuple[float, float]:
        """The margin in points, and the share of the models, in %, that pass at it."""
        margin, random = self.margin(n), np.random.default_rng(SEED)
        gate = GateSettings(margin, CONFIDENCE)
        passed = sum(judge(*self.draw(n, random), gate, self.measure).verdict == "pass" for _ in range(models))
        return margin, 100 * passed / models


def binary(measure: str, lost: float, won: float) -> Scene:
    """Answers that are right or wrong, with these rates."""
    return Scene(
        f"{100 * lost:g} % lost, {100 * won:g} % won",
        measure,
        lambda n, r: right_or_wrong(n, r, lost, won),
        (lost, won),
    )


SCENES = [
    binary("accuracy", 0.02, 0.0),
    binary("accuracy", 0.03, 0.01),
    binary("accuracy", 0.06, 0.04),
    binary("exact match", 0.10, 0.08),
    Scene("the same classes", "recall@1", lambda n, r: retrieval(n, r, 0.75, 0.3, same=True), size=None, sets=2000),
    Scene("other classes", "recall@1", lambda n, r: retrieval(n, r, 0.75, 0.3), size=None, sets=2000),
    Scene("other classes, worse", "recall@1", lambda n, r: retrieval(n, r, 0.6, 0.5), size=None, sets=2000),
    Scene("2 % lost", "F1", lambda n, r: answer_f1(n, r, 0.02, losses_only=True)),
    Scene("30 % differ", "F1", lambda n, r: answer_f1(n, r, 0.30)),
    Scene("3 % missed", "micro F1", lambda n, r: labels_f1(n, r, 0.03)),
    Scene("10 % differ", "entity F1", lambda n, r: entity_f1(n, r, 0.10)),
    Scene("noise of 10 %", "Spearman", lambda n, r: similarity(n, r, 0.10), judged=(200,)),
    Scene("noise of 30 %", "Spearman", lambda n, r: similarity(n, r, 0.30), judged=(200,)),
]


def level(lost: float, won: float, n: int) -> float:
    """The probability, in %, that n examples with these rates pass at the margin of their difference."""
    z, delta, total = NormalDist().inv_cdf(CONFIDENCE), won - lost, 0.0
    for b in _likely(n, lost):
        for c in _likely(n, won):
            if b + c <= n and c - b > n * delta and score(b, c, n, delta) >= z:
                total += math.exp(_log_probability((b, c, n - b - c), (lost, won, 1 - lost - won)))
    return 100 * total


def _likely(n: int, rate: float) -> range:
    """The counts within eight standard deviations: all but 1e-14 of the probability."""
    middle, width = n * rate, 8 * math.sqrt(n * rate + 1)
    return range(max(0, math.floor(middle - width)), math.ceil(middle + width) + 1) if rate else range(1)


def _log_probability(counts: tuple[int, ...], rates: tuple[float, ...]) -> float:
    """Of counts in a multinomial distribution."""
    parts = sum(k * math.log(rate) - math.lgamma(k + 1) for k, rate in zip(counts, rates, strict=True) if k)
    return math.lgamma(sum(counts) + 1) + parts


def main() -> None:
    models = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(
        f"| measure | models | n | margin | false accepts of {models:,}, % | computed, % |\n|---|---|---|---|---|---|"
    )
    for scene in SCENES:
        for n in scene.judged:
            margin, share = scene.accepted(n, models)
            exact = f"{level(*scene.rates, n):.2f}" if scene.rates else ""
            print(f"| {scene.measure} | {scene.title} | {n} | {margin:.2f} | {share:.1f} | {exact} |", flush=True)


if __name__ == "__main__":
    main()
