"""Other systems against a bundle: the same weights, or the same training data; accuracy, speed and size.

python benchmarks/peers.py BUNDLE --student STUDENT --data TEST --train TRAIN --base asset:minilm --environments DIR
python benchmarks/peers.py BUNDLE --data TEST --train TRAIN --base asset:minilm --peers model2vec,setfit
python benchmarks/peers.py ... --prepare          # environments, conversions, trainings and accuracy, no timing

The student is the folder that the bundle was exported from: its encoder before quantization, as a checkpoint of plain
transformers, is what peers convert and quantize by their own means. None of them has a class for a linear head on the
first token, so they give that token's vector and the student's own head follows in numpy. Peers that train for
themselves read TRAIN, and begin with --base.

A peer is one file, benchmarks/peers/run_NAME.py, in an environment of its own, DIR/NAME, with exactly the packages of
benchmarks/environments/NAME.txt, which is what `pip freeze` says after pip chose them; it is made where it is missing,
and may be deleted. What peers convert or train is kept in DIR/made. All systems take turns with the bundle in processes
of their own (peers_rounds.py), from text to answer, each with its best batch and its texts sorted by
length. A second process of the bundle shows the noise. A peer that fails is a row with its reason; exit status 1: none
ran.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from attar.distill.data.assets import resolve_model
from attar.runtime.bundle import Bundle
from attar.runtime.cpu import usable_cores
from attar.runtime.data import Examples, read_examples
from attar.runtime.errors import AttarError
from benchmarks.environment import interpreter, run
from benchmarks.peers_given import given, size
from benchmarks.peers_rounds import ROOT, SINGLE, TIMED, Line, System, chosen, loaded, measure
from benchmarks.record import Record

HERE = Path(__file__).resolve().parent
MINUTES = 30
"""What a peer may take to convert or to train."""
MAIN = ("nncf", "torch", "transformers", "optimum-onnx", "onnxruntime", "tokenizers")
"""Packages whose versions the table names, beside the peer's own."""
OURS, AGAIN = "attar", "attar again"
COLUMNS = (
    "system", "versions", "accuracy", "single text, p50 ms", "attar: times as fast", "texts a second",
    "attar: times as fast", "batch", "MB",
)  # fmt: skip


@dataclass(frozen=True)
class Failure:
    name: str
    why: str

    def row(self) -> list[str]:
        return [self.name, self.why, *[""] * (len(COLUMNS) - 2)]


def known() -> list[str]:
    """The peers by the names that pip knows them by."""
    return sorted(p.stem.removeprefix("run_").replace("_", "-") for p in (HERE / "peers").glob("run_*.py"))


def pins(name: str) -> str:
    """The exact requirements of a peer's environment."""
    return (HERE / "environments" / f"{name}.txt").read_text(encoding="utf-8")


def python(name: str, environments: Path) -> Path:
    """The interpreter of a peer's environment, which is made where it is missing or has other pins."""
    requirements = str(HERE / "environments" / f"{name}.txt")
    return interpreter(environments / name, [["--no-deps", "--only-binary", ":all:", "-r", requirements]], pins(name))


def versions(name: str) -> str:
    """A peer's own version and those of the packages beneath it."""
    found = dict(line.split("==") for line in pins(name).splitlines() if "==" in line)
    return ", ".join(f"{package} {found[package]}" for package in dict.fromkeys((name, *MAIN)) if package in found)


def prepared(name: str, folder: Path, environments: Path) -> tuple[list[str], Path]:
    """Has a peer convert or train, once for what it is given: what starts it, and the folder that it made."""
    script = HERE / "peers" / f"run_{name.replace('-', '_')}.py"
    command = [str(python(name, environments)), str(script)]
    mark = hashlib.sha256((script.read_text(encoding="utf-8") + pins(name)).encode()).hexdigest()
    made = folder / f"{name}-{mark[:8]}"
    if not made.is_dir():
        with TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            run([*command, "prepare", str(folder), str(fresh)], "does not convert or train", path=ROOT, minutes=MINUTES)
            fresh.rename(made)
    return [*command, "serve", str(folder), str(made)], made


@dataclass(frozen=True)
class Entry:
    """A system that has answered the test split; what it is made of, and its megabytes on disk."""

    system: System
    versions: str
    megabytes: float


def progress(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def entries(
    stack: ExitStack, args: argparse.Namespace, folder: Path, gate: str, test: Examples
) -> tuple[list[Entry], list[Failure]]:
    """The peers that have answered the test split, and those that have not."""
    found: list[Entry] = []
    failures: list[Failure] = []
    for name in args.peers:
        progress(f"preparing {name}")
        try:
            command, made = prepared(name, folder, args.environments.absolute())
            line = stack.enter_context(Line([*command, "--threads", str(args.threads)], args.threads))
            system = loaded(name, line, gate, test.texts, test.labels or ())
        except AttarError as error:
            failures.append(Failure(name, str(error)))
            progress(f"{name}: {error}")
            continue
        extra = [folder / "head.npz"] if "head in numpy" in system.kind else []
        found.append(Entry(system, versions(name), size([made, *extra])))
        progress(f"{name}: {system.points:.2f}, {found[-1].megabytes:.1f} MB")
    return found, failures


def row(entry: Entry, ours: System, again: System) -> list[str]:
    """A line of the table; the bundle's own ratios are those against itself."""
    one = entry.system
    ratios = [f"{r.ratio:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in ours.faster(again if one is ours else one)]
    return [
        f"{one.name}: {one.kind.removeprefix('attar ')}", entry.versions, f"{one.points:.2f}",
        f"{median(one.p50) / 1e6:.2f}", ratios[0], f"{median(one.rates):.0f}", ratios[1], str(one.batch),
        f"{entry.megabytes:.1f}",
    ]  # fmt: skip


def note(test: Examples, args: argparse.Namespace) -> str:
    return (
        f"Accuracy on all {len(test)} texts of the test split. Text in to answer out, {args.threads} "
        f"thread{'s' if args.threads > 1 else ''} each, each in its own process with its best batch (tokens for attar, "
        f"texts for all others), in {args.rounds} rounds in turns: medians, and geometric means of the ratios of each "
        f"round with 95 % t intervals. Single texts are {min(SINGLE, len(test))} a round, lists "
        f"{min(TIMED, len(test))} of mixed lengths. The first row's ratios are the bundle against a second process of "
        "itself: the noise. Megabytes are of all that a system loads, without its packages."
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--student", type=Path, metavar="DIR", help="that the bundle was exported from")
    parser.add_argument("--data", type=Path, required=True, metavar="TEST")
    parser.add_argument("--train", type=Path, required=True, metavar="TRAIN", help="to train on, and to calibrate with")
    parser.add_argument("--base", default="", help="what peers that train begin with: a folder, asset:minilm ...")
    parser.add_argument("--peers", default="all", metavar="NAMES", help=f"any of {','.join(known())}, or all (default)")
    parser.add_argument("--environments", type=Path, default=Path("build/environments"), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--prepare", action="store_true", help="do all but the timing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record of the table")
    args = parser.parse_args(argv)
    args.peers = known() if args.peers == "all" else [name for name in args.peers.split(",") if name]
    if wrong := sorted({*args.peers} - {*known()}):
        parser.error(f"unknown peer {wrong[0]!r}; known: {', '.join(known())}")
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: an interval needs them")
    return args


def compare(args: argparse.Namespace) -> int:
    """The whole table; how many peers ran."""
    read = Bundle.read(args.bundle)
    task = read.manifest.task
    gate = task.gates[0]
    test = read_examples(args.data, kind=task.kind)
    train = read_examples(args.train, kind=task.kind)
    base = str(resolve_model(args.base)) if args.base else ""
    folder = given((args.environments / "made").absolute(), read.manifest, train, base, args.student)
    with ExitStack() as stack:
        own = [sys.executable, "-P", "-m", "attar.runtime.bench.worker", str(args.bundle.absolute())]
        ours, again = (
            loaded(name, stack.enter_context(Line([*own, "--threads", str(args.threads)], args.threads)), gate,
                   test.texts, test.labels or ())
            for name in (OURS, AGAIN)
        )  # fmt: skip
        first = Entry(ours, "", size([args.bundle]))
        progress(f"{OURS}: {ours.points:.2f}, {first.megabytes:.1f} MB")
        found, failures = entries(stack, args, folder, gate, test)
        if args.prepare or not found:
            return len(found)
        failed = measure([ours, again, *(e.system for e in found)], chosen(test.texts), args.rounds, progress)
    if AGAIN in failed:
        raise AttarError(f"{OURS}: {failed[AGAIN]}")
    failures += [Failure(name, why) for name, why in failed.items()]
    left = sorted((e for e in found if e.system.name not in failed), key=lambda e: -median(e.system.rates))
    lines = [*(row(entry, ours, again) for entry in (first, *left)), *(failure.row() for failure in failures)]
    title = (
        f"Other systems on {args.data.resolve().parent.name}, against the bundle {args.bundle.resolve().parent.name}"
    )
    data = [e.system.to_json() for e in (first, *left)] + [again.to_json()]
    Record(title, COLUMNS, lines, note(test, args), data).write(args.json)
    for line in (COLUMNS, ["---"] * len(COLUMNS), *lines):
        print("| " + " | ".join(line) + " |")
    print("\n" + note(test, args))
    return len(left)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return 0 if compare(arguments(argv)) else 1
    except AttarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
