"""Every way to quantize, on students of one's own: accuracy, speed, size, and whether answers depend on neighbours.

python benchmarks/schemes.py recipes/clinc150.toml build/clinc150/student
python benchmarks/schemes.py RECIPE STUDENT [RECIPE STUDENT ...] --rounds 21
python benchmarks/schemes.py RECIPE STUDENT --peers nncf,neural-compressor --environments build/peers

The recipe, or a ladder, says where the data lies; a student is the folder that `attar run` writes as OUT/student, and
those that stages hold serve as well. Its own quantization is left out: every row begins with its fp32 weights.

Accuracy is that of the exported bytes on the whole test split. Speed is from text to answer on one thread, in turns
with fp32 (runtime/bench/paired.py), above 1 is faster; the fp32 row is fp32 against itself and shows the noise. The
last two columns compare each of 96 texts alone with itself in a shuffled batch of mixed lengths, and padded to the
longest input. Scales are calibrated on training texts, the same for all rows. Other quantizers (`--peers`,
benchmarks/peers/) get our fp32 graph and the token ids of these texts, each in an environment of its own, made once
under --environments.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import schemes_peers as peers
from int8 import dynamic
from schemes_table import HEADER, Failure, Row, invariance, speeds

from attar.compress.quantize import int8
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.pipeline.data import named, read_data
from attar.pipeline.recipe import Recipe, read_ladder, read_recipe
from attar.pipeline.steps import points
from attar.runtime.cpu import machine
from attar.runtime.data import Examples
from attar.runtime.errors import AttarError, SettingsError
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import Text
from benchmarks.record import Record, cells

CALIBRATION = 256
TEXTS = 96
"""In a batch, and to look at invariance."""
SINGLES = 32
NOTE = (
    "Accuracy of the exported bytes on the whole test split; speed from text to answer on one thread, in {rounds} "
    "rounds in turns with fp32, with 95 % t intervals; the fp32 row's ratios are the noise."
)


@dataclass(frozen=True)
class Subject:
    """A student in fp32, the texts that scales are calibrated on, and those it is judged by."""

    student: Student
    calibration: list[Text]
    test: Examples


def subject(recipe: Path, folder: Path) -> Subject:
    """Refused where the student does not sort single texts into classes."""
    student = replace(Student.load(folder), plan=None)
    task = student.task
    if not isinstance(task, TextClassification) or task.multi_label or task.pairs or not student.encoder.depth:
        raise SettingsError(f"{folder}: the table is for transformer students that sort single texts into classes")
    ladder = recipe.is_file() and "\n[[rung]]" in recipe.read_text(encoding="utf-8")
    splits = read_data(labelled(read_ladder(recipe)[0] if ladder else read_recipe(recipe))).splits
    return Subject(student, spread(splits.train.texts, CALIBRATION), named(splits.test, task))


def labelled(recipe: Recipe) -> Recipe:
    """The recipe with its labelled texts alone."""
    none: dict[str, Any] = {"unlabelled": (), "outside": None, "crops": 0, "replacements": 0, "ngrams": 0, "masks": 0}
    return replace(recipe, data=replace(recipe.data, **none))


def spread(texts: Sequence[Text], count: int) -> list[Text]:
    """So many of the texts, evenly spread: files are often sorted by class."""
    count = min(count, len(texts))
    return [texts[i * len(texts) // count] for i in range(count)]


def schemes(case: Subject, fp32: bytes, folder: Path) -> dict[str, Callable[[], bytes]]:
    """The model of each row by its name."""

    def exported(plan: QuantPlan) -> bytes:
        return to_onnx(replace(case.student, plan=plan.to_json()))

    def planned(scheme: str, smooth: float = 0.0) -> bytes:
        return exported(int8.planned(scheme, case.student, case.calibration, int8.Settings(smooth=smooth)))

    return {
        "fp32": lambda: fp32,
        "bf16 weights": lambda: exported(QuantPlan(kind="bf16", words="fp32")),
        "int8 dynamic, a scale a tensor (ONNX Runtime)": lambda: dynamic(fp32, folder),
        "int8 static": lambda: planned("static"),
        "int8 static, SmoothQuant 0.5": lambda: planned("static", 0.5),
        "int8 mixed": lambda: planned("mixed"),
        "int8 per token": lambda: planned("per_token"),
        "int8 per token, SmoothQuant 0.5": lambda: planned("per_token", 0.5),
        "int8 weights alone": lambda: exported(QuantPlan(kind="weights", bits=8)),
        "int4 weights alone": lambda: exported(QuantPlan(kind="weights", bits=4)),
    }


def table(case: Subject, others: Sequence[str], environments: Path, rounds: int) -> list[Row | Failure]:
    """Measures and prints every row."""
    student, test, texts = case.student, case.test, spread(case.test.texts, TEXTS)
    fp32 = to_onnx(student)
    base = in_memory(student, threads=1, model=fp32)
    best = points(base, test)

    def measured(name: str, make: Callable[[], bytes]) -> Row:
        data = make()
        model = in_memory(student, threads=1, model=data)
        found, moved = points(model, test), invariance(model, texts)
        single, batch = speeds(base, model, texts, SINGLES, rounds)
        return Row(name, found, best - found, single, batch, len(data) / 1e6, moved)

    def attempted(name: str, make: Callable[[], bytes]) -> Row | Failure:
        try:
            return measured(name, make)
        except Exception as error:  # whatever is wrong with a peer, or with what it wrote, is its row
            return Failure(name, " ".join(str(error).split())[:200])

    result: list[Row | Failure] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        peers.request(folder, fp32, student.encode(case.calibration).ids)
        own = schemes(case, fp32, folder)
        theirs = {peers.label(name): partial(peers.quantized, name, folder, environments) for name in others}
        for name, make in (own | theirs).items():
            result.append(measured(name, make) if name in own else attempted(name, make))
            print(result[-1].line(), flush=True)
    return result


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", nargs="+", type=Path, metavar="RECIPE STUDENT", help="a recipe and a student's folder")
    parser.add_argument("--rounds", type=int, default=9, help="of paired measurements (9)")
    parser.add_argument("--peers", default="", metavar="NAMES", help=f"any of {','.join(peers.known())}, or all")
    parser.add_argument("--environments", type=Path, default=Path("build/peers"), metavar="DIR")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record of the tables")
    args = parser.parse_args(argv)
    args.peers = peers.known() if args.peers == "all" else [name for name in args.peers.split(",") if name]
    if len(args.given) % 2:
        parser.error("give a recipe and a student's folder, or several such pairs")
    if wrong := sorted({*args.peers} - {*peers.known()}):
        parser.error(f"unknown peer {wrong[0]!r}; known: {', '.join(peers.known())}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    logging.disable()
    found, lines = [], []
    try:
        for recipe, folder in zip(args.given[::2], args.given[1::2], strict=True):
            case = subject(recipe, folder)
            print(f"\n{recipe.stem}, {len(case.test)} texts of {case.test.source}\n\n{HEADER}")
            rows = table(case, args.peers, args.environments, args.rounds)
            lines += [[recipe.stem, *cells(row.line())] for row in rows]
            found.append({"recipe": recipe.stem, "texts": len(case.test), "rows": [row.to_json() for row in rows]})
    except AttarError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["student", *cells(HEADER.splitlines()[0])]
    Record("Schemes of quantization", columns, lines, NOTE.format(rounds=args.rounds), found).write(args.json)
    print("\n" + json.dumps({"machine": machine(), "rounds": args.rounds, "threads": 1, "students": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
