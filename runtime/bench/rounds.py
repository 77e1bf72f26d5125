"""Interleaved rounds over any number of systems: the first is compared with each of the others, its twin included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from attar.runtime.bench.client import Worker
from attar.runtime.bench.decide import LOOKS, Certificate, certify, settled, trimmed
from attar.runtime.bench.histogram import Histogram
from attar.runtime.bench.paired import Ratio
from attar.runtime.bench.usage import Meter
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text

METRICS = ("p50", "throughput")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    `rounds`: that many; None: 9 to 72, until the certificate is narrow enough and every ratio settled, at a confidence
    that allows for having looked several times (Bonferroni). `singles`: texts answered one by one in a round.
    `seconds`: of a measurement of throughput, at least. `pause`: seconds before a measurement, in which idle threads of
    the others stop spinning.
    `processor`: ratios are of the processor's time, which other work does not lengthen; else of wall time.
    """

    rounds: int | None = None
    singles: int = 60
    seconds: float = 0.25
    pause: float = 0.1
    processor: bool = False

    def __post_init__(self) -> None:
        if self.rounds is not None and self.rounds < 2:
            raise SettingsError(f"rounds must be at least 2, not {self.rounds}: an interval needs them")

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of rounds after which it may end."""
        return LOOKS if self.rounds is None else (self.rounds,)

    @property
    def confidence(self) -> float:
        """Of each interval, so that all looks together are right in 95 % of runs."""
        return 1 - 0.05 / len(self.looks)


@dataclass
class Runner:
    """A worker and what it has measured: all calls, and one value a round in `p50` (ns) and `rates` (texts/s).

    `walls` are the rates by wall time, which people read, whatever the ratios are made of; `joules` those of `texts`.
    """

    worker: Worker
    kind: str
    batch: int = 0
    calls: Histogram = field(default_factory=Histogram)
    p50: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    joules: float = 0.0
    texts: int = 0


def measure(
    runners: Sequence[Runner], texts: Sequence[Text], plan: Plan, say: Progress, meters: Sequence[Meter] = ()
) -> Certificate:
    """Rounds over all runners, of which the second is the twin of the first, and what their difference says."""
    single = texts[: plan.singles]
    for upto in plan.looks:
        while len(runners[0].p50) < upto:
            number = len(runners[0].p50)
            say(f"round {number + 1} of {upto}")
            order = turns(runners, number)
            for runner in order:
                _latency(runner, single, plan)
            for runner in order:
                throughput(runner, texts, plan, meters)
        found = certify(ratios(runners[0], runners[1], plan))
        values = [ratio for other in runners[2:] for ratio in ratios(runners[0], other, plan).values()]
        if not found.noisy and all(settled(ratio) for ratio in values):
            break
    return found


def turns(runners: Sequence[Runner], number: int) -> list[Runner]:
    """A B, B A, B A, A B, ...: none always goes first, and of three none stays in the middle."""
    shift = (number // 2) % len(runners)
    order = [*runners[shift:], *runners[:shift]]
    return order[::-1] if number % 2 else order


def ratios(ours: Runner, other: Runner, plan: Plan) -> dict[str, Ratio]:
    """How many times faster ours is than the other, by metric."""
    p50 = [b / a for a, b in zip(ours.p50, other.p50, strict=True)]
    rate = [a / b for a, b in zip(ours.rates, other.rates, strict=True)]
    return {name: trimmed(values, plan.confidence) for name, values in zip(METRICS, (p50, rate), strict=True)}


def _latency(runner: Runner, texts: Sequence[Text], plan: Plan) -> None:
    time.sleep(plan.pause)
    reply = runner.worker.ask("latency", {"texts": texts})
    for value in reply["ns"]:
        runner.calls.add(value)
    runner.p50.append(max(median(reply["busy" if plan.processor else "ns"]), 1.0))


def throughput(runner: Runner, texts: Sequence[Text], plan: Plan, meters: Sequence[Meter]) -> None:
    """One measurement of a system's texts a second, and of its energy where there are meters."""
    time.sleep(plan.pause)
    before = [meter.read() for meter in meters]
    reply = runner.worker.ask("throughput", {"texts": texts, "seconds": plan.seconds})
    runner.joules += sum(meter.between(start, meter.read()) for meter, start in zip(meters, before, strict=True))
    runner.texts += reply["texts"]
    runner.walls.append(reply["texts"] / reply["seconds"])
    runner.rates.append(reply["texts"] / max(reply["busy" if plan.processor else "seconds"], 1e-9))
