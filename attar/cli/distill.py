"""`attar distill`: a fine-tuned teacher into a smaller student."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attar.pipeline.parts import Corpus
    from attar.pipeline.recipe import Recipe
    from attar.runtime.tasks.base import Task

HELP = "Distil a fine-tuned teacher into a smaller student: a recipe's steps before its first compress step."
EXAMPLE = "attar distill path/to/teacher --data train.csv --recipe recipes/sentiment.toml --out student"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("teacher", help="a fine-tuned model: a folder or a hub id")
    corpus_arguments(parser)
    parser.add_argument("--unlabelled", metavar="FILE", help="more texts of the domain, without labels")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="a TOML file (default: every second layer, ending with the last, at the default settings)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the student's folder")
    device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the steps as one JSON line")


def run(args: argparse.Namespace) -> int:
    """Distil, and print what each step gave."""
    from attar.distill import device, processes
    from attar.pipeline import parts
    from attar.pipeline.fit import task_in
    from attar.pipeline.progress import Console
    from attar.pipeline.recipe import read_recipe

    where = device.chosen(args.device)
    recipe = read_recipe(args.recipe) if args.recipe else None
    with processes.in_turn():
        given = corpus(args, task_in(args.teacher), recipe)
    records = parts.distil(args.teacher, given, recipe, args.out, Console(), where)
    show(records, args.out, args.json)
    return 0


def device_argument(parser: argparse.ArgumentParser) -> None:
    """Where networks are trained."""
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to train and to ask the teacher (default: a GPU if PyTorch finds one)",
    )  # fmt: skip


def corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of labelled data to train with and to choose by."""
    parser.add_argument("--data", required=True, metavar="FILE", help="labelled texts to train with")
    parser.add_argument("--dev", metavar="FILE", help="labelled texts to choose by (default: a tenth of --data)")
    column_arguments(parser)


def column_arguments(parser: argparse.ArgumentParser) -> None:
    """The names of the columns of every data file."""
    parser.add_argument("--text-column", metavar="NAME", help="the text column of the data files")
    parser.add_argument("--label-column", metavar="NAME", help="the label column; of several heads intent,tags")


def corpus(args: argparse.Namespace, task: Task, recipe: Recipe | None) -> Corpus:
    """The data files that the arguments name, read as the task wants them."""
    from attar.pipeline.data import NOTHING, read_for
    from attar.pipeline.parts import Corpus

    text, label = args.text_column, args.label_column
    extra = getattr(args, "unlabelled", None)
    return Corpus(
        train=read_for(task, args.data, text=text, label=label, recipe=recipe),
        dev=read_for(task, args.dev, text=text, label=label, recipe=recipe) if args.dev else None,
        unlabelled=read_for(task, extra, text=text, require_labels=False, recipe=recipe) if extra else NOTHING,
    )


def show(records: Sequence[dict[str, Any]], out: Path, as_json: bool) -> None:
    """Print each step, kept or dropped, with its numbers."""
    if as_json:
        print(json.dumps({"student": str(out), "steps": records}, ensure_ascii=False))
        return
    for record in records:
        verdict = "kept" if record["kept"] else "dropped"
        numbers = f"dev {record['score']:.2f}, {record['size_mb']:.2f} MB, {record['p50_ms']:.2f} ms a text"
        print(f"{record['name']}: {verdict}: {numbers}. {record['reason']}")
    print(f"student: {out}")
