"""Damages a bundle at random, in every way that files can be damaged, and tells what attar made of it.

python benchmarks/mutations.py build/sentiment/bundle --count 500 --seed 1

Damage that leaves the hashes as they were, or a manifest that is none, has to be refused before any parser of models
has seen a byte. Damage by someone who computes the hashes anew ("rehashed") may reach the parsers; it is refused, or it
is another bundle, whose own golden inputs reproduce, and in any case nothing else than an `AttarError` comes of it.
The damage is done in a worker with limits of memory and time, so that a crash or a hang of a parser is seen as one.
Each mutation has a seed of its own, SEED and its number: `--first N --count 1` does one again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from attar.runtime import tokenizer
from attar.runtime.bundle import Bundle
from attar.runtime.engines import onnx as engines
from attar.runtime.errors import AttarError
from attar.runtime.model import Model, load
from benchmarks.mutation_kinds import KINDS, UNREADABLE, Mutation

MEMORY = 3 << 30
"""Bytes of address space that a worker may have, beyond what it has before the first bundle."""
SECONDS = 20
"""That one mutation may take."""
NOBODY = 65534
TEXTS = ("a good film", "the awful dull film, and a much longer text than the first", "")
EARLY, LATE, OTHER = "refused before any parser", "refused by a parser or the golden inputs", "another bundle"
SAME = "the same bytes"
ALLOWED = {"rehashed": {EARLY, LATE, OTHER}, "zipped": {EARLY, SAME}}
"""By class; all others are refused early."""


class Spy:
    """Stands before a parser and counts its calls."""

    def __init__(self, real: Any) -> None:
        self._real, self.calls = real, 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self._real, name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        return self._real(*arguments, **options)


def spies() -> list[Spy]:
    """One before each parser that a load comes to: of tokenizers, of ONNX Runtime, and our own of ONNX files."""
    import onnxruntime as ort

    found = [Spy(tokenizer.Backend), Spy(ort.InferenceSession), Spy(engines.external_files)]
    tokenizer.Backend, ort.InferenceSession, engines.external_files = found  # type: ignore[misc,assignment]
    return found


def outcome(path: Path, whole: Bundle, watching: list[Spy], as_nobody: bool) -> tuple[str, str]:
    """What becomes of a damaged bundle, and the message that says so."""
    before = sum(spy.calls for spy in watching)
    if as_nobody:
        os.seteuid(NOBODY)
    try:
        model = load(path, threads=1)
        use(model)
        verdict, told = OTHER, ""
        if Bundle.read(path).contents == whole.contents and model.manifest == whole.manifest:
            verdict = SAME
    except AttarError as error:
        early = sum(spy.calls for spy in watching) == before
        verdict, told = (EARLY if early else LATE), str(error)
    except Exception as error:
        verdict, told = f"{type(error).__name__} escaped", str(error)
    finally:
        if as_nobody:
            os.seteuid(0)
    return verdict, told


def use(model: Model) -> None:
    """Answers alone and in a batch, as a service would; the golden inputs were replayed at load."""
    texts: list[Any] = [(text, text) for text in TEXTS] if model.task.pairs else list(TEXTS)
    for text in texts:
        model(text)
    model(texts)


def work(bundle: Path, seed: int, numbers: range, only: str | None) -> None:
    """Does mutations by their numbers, a JSON line before and after each."""
    told_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what native code prints is none of our lines
    whole, watching = Bundle.read(bundle), spies()
    use(load(bundle, threads=1))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        rng = Random(f"{seed}:{number}")
        kinds = sorted(name for name in KINDS if only is None or KINDS[name].of == only)
        name = kinds[number % len(kinds)]
        print(json.dumps({"number": number, "kind": name}), file=told_to, flush=True)
        with tempfile.TemporaryDirectory(prefix="mutation") as scratch:
            os.chmod(scratch, 0o755)
            damaged = damage(bundle, Path(scratch) / "bundle", KINDS[name], rng)
            signal.alarm(SECONDS)
            verdict, told = outcome(damaged, whole, watching, name in UNREADABLE and os.geteuid() == 0)
            signal.alarm(0)
        record = {"number": number, "outcome": verdict, "message": told[:300]}
        print(json.dumps(record), file=told_to, flush=True)


def damage(bundle: Path, target: Path, mutation: Mutation, rng: Random) -> Path:
    """A damaged copy: a folder, or a zip."""
    shutil.copytree(bundle, target)
    return mutation.damage(target, rng) or target


def run(bundle: Path, seed: int, numbers: range, only: str | None) -> list[dict[str, Any]]:
    """All mutations, by workers: one that dies is followed by the next."""
    done: list[dict[str, Any]] = []
    while numbers:
        command = [sys.executable, "-m", "benchmarks.mutations", str(bundle), "--seed", str(seed), "--worker"]
        command += ["--first", str(numbers.start), "--count", str(len(numbers))] + (["--only", only] if only else [])
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
        for line in found.stdout.splitlines():
            record = json.loads(line)
            if "kind" in record:
                done.append(record)
            else:
                done[-1].update(record)
        if not done or done[-1]["number"] < numbers.start:
            raise SystemExit(found.stderr)
        if "outcome" not in done[-1]:
            dead = "hang" if found.returncode == -signal.SIGALRM else f"crash ({found.returncode})"
            done[-1].update(outcome=dead, message=found.stderr[-300:])
        numbers = range(done[-1]["number"] + 1, numbers.stop)
    return done


def wrong(record: dict[str, Any]) -> bool:
    """Whether this must not happen."""
    return record["outcome"] not in ALLOWED.get(KINDS[record["kind"]].of, {EARLY})


def table(done: list[dict[str, Any]]) -> str:
    """Kinds of damage by outcome."""
    outcomes = sorted({record["outcome"] for record in done})
    counts = Counter((record["kind"], record["outcome"]) for record in done)
    lines = [f"| class | damage | {' | '.join(outcomes)} |", "|---" * (2 + len(outcomes)) + "|"]
    for kind in sorted({record["kind"] for record in done}, key=lambda k: (KINDS[k].of, k)):
        cells = " | ".join(str(counts[kind, o] or "") for o in outcomes)
        lines.append(f"| {KINDS[kind].of} | {kind} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first mutation (default: 0)")
    parser.add_argument("--only", choices=sorted({kind.of for kind in KINDS.values()}), help="one class of damage")
    parser.add_argument("--worker", action="store_true", help="do the damage in this process")
    args = parser.parse_args()
    numbers = range(args.first, args.first + args.count)
    if args.worker:
        work(args.bundle, args.seed, numbers, args.only)
        return
    done = run(args.bundle.resolve(), args.seed, numbers, args.only)
    print(table(done))
    bad = [record for record in done if wrong(record)]
    for record in bad[:20]:
        print(json.dumps(record))
    print(json.dumps({"mutations": len(done), "seed": args.seed, "wrong": len(bad)}))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
