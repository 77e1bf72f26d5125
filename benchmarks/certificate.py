"""How often `attar bench` is right about a difference, while another process burns the processor at random.

python benchmarks/certificate.py                 # 100 trials; on a machine with other work, minutes to half an hour
python benchmarks/certificate.py --trials 20 --burners 2

A trial is what `attar bench` does by default (`runtime/bench/rounds.py`, its rounds, its clock for one thread, its
decisions) with systems whose work is fixed: one, its twin, and one that does 5 % more. It counts two things: the twin
is no different and the machine is judged quiet enough; the third is found slower. A burner computes and sleeps in
turns, each for a random time of 0.15 s on average. All of it runs on one core, which the burners share.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from attar.runtime.bench.client import Subject, Worker
from attar.runtime.bench.decide import verdict
from attar.runtime.bench.protocol import serve
from attar.runtime.bench.rounds import METRICS, Plan, Runner, measure, ratios
from attar.runtime.cpu import machine
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import Text

BYTES = 500_000
"""That a call hashes: about 0.3 ms. Not a loop in Python, whose speed differs between processes by up to 1.7x."""
SLOWDOWN = 0.05
BURST = 0.15
"""Seconds that a burner computes, and sleeps, on average."""
PLAN = Plan(rounds=None, singles=12, seconds=0.01, pause=0.0, processor=True)
"""The rounds and decisions of `attar bench`; less time in each round, because the work is small."""


class Fixed:
    """A system whose call always does the same work."""

    kind, task, settings = "fixed work", TextClassification(("a", "b")), (1,)

    def __init__(self, size: int) -> None:
        self._block = bytes(size)

    def use(self, setting: int) -> None:
        """Nothing depends on the batch."""

    def fix(self, rows: int, tokens: int) -> None:
        """Nothing depends on the batch."""

    def many(self, texts: Sequence[Text]) -> list[Any]:
        return [hashlib.sha256(self._block).digest() for _ in texts]


@contextmanager
def burning(count: int) -> Iterator[None]:
    """That many processes beside this one, which compute and sleep in turns."""
    command = [sys.executable, __file__, "--burn"]
    burners = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def burn() -> None:
    """Computes and sleeps in turns until it is killed."""
    while True:
        time.sleep(random.expovariate(1 / BURST))
        end = time.perf_counter() + random.expovariate(1 / BURST)
        while time.perf_counter() < end:
            pass


def trial() -> dict[str, Any]:
    """One run: whether the machine was judged quiet, and what was said of the slower system, by metric."""
    sizes = (BYTES, BYTES, int(BYTES * (1 + SLOWDOWN)))
    with ExitStack() as stack:
        runners = []
        for number, size in enumerate(sizes):
            subject = Subject(f"system {number}", "benchmarks.certificate", ("--work", str(size)))
            worker = stack.enter_context(Worker(subject, 1))
            runners.append(Runner(worker, worker.ask("load")["kind"]))
        certificate = measure(runners, ["text"] * 32, PLAN, lambda _: None)
        # Ours over the other's: the slower system makes the first one faster.
        found = ratios(runners[0], runners[2], PLAN)
    return {
        "certificate": certificate.verdict,
        "why": certificate.why,
        "same": {name: ratio.to_json() for name, ratio in certificate.ratios.items()},
        "slower": {name: {**found[name].to_json(), "verdict": verdict(found[name])} for name in METRICS},
        "rounds": len(runners[0].p50),
    }


def count(trials: int) -> dict[str, Any]:
    """How many of the trials were right, by what is asked."""
    found = []
    for number in range(trials):
        found.append(trial())
        print(f"trial {number + 1}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    quiet = [one for one in found if one["certificate"] == "quiet"]
    return {
        "trials": trials,
        "no_difference": len(quiet),
        "found": {name: sum(one["slower"][name]["verdict"] == "faster" for one in quiet) for name in METRICS},
        "called_different": sum(one["why"].endswith("is not 1") for one in found),
        "too_wide": sum("too wide" in one["why"] for one in found),
        "rounds": sorted(one["rounds"] for one in found),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, metavar="N")
    parser.add_argument("--burners", type=int, default=1, metavar="N", help="processes that disturb (1)")
    parser.add_argument("--work", type=int, metavar="BYTES", help=argparse.SUPPRESS)  # this process is a worker
    parser.add_argument("--burn", action="store_true", help=argparse.SUPPRESS)  # this process is a burner
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # what every worker is told
    chosen = parser.parse_args(argv)
    if chosen.work is not None:
        return serve(lambda: Fixed(chosen.work))
    if chosen.burn:
        burn()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    began = time.perf_counter()
    with burning(chosen.burners):
        found = count(chosen.trials)
    kept = found["no_difference"] >= 0.95 * chosen.trials
    kept = kept and min(found["found"].values()) >= 0.9 * chosen.trials
    print(json.dumps({**found, "ok": kept, "seconds": round(time.perf_counter() - began), "machine": machine()}))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
