"""`attar compress`: a student made smaller and faster, step by step."""

from __future__ import annotations

import argparse
from pathlib import Path

from attar.cli.distill import corpus, corpus_arguments, show

HELP = "Compress a student: a recipe's steps from its first compress step on, or int8 alone."
EXAMPLE = (
    "attar compress student --teacher path/to/teacher --data train.csv --recipe recipes/sentiment.toml --out small"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("student", type=Path, help="a folder that attar distill wrote, or a fine-tuned model")
    parser.add_argument(
        "--teacher", required=True, help="the teacher that recovery distillation asks: folder or hub id"
    )
    corpus_arguments(parser)
    parser.add_argument("--unlabelled", metavar="FILE", help="more texts of the domain, for recovery distillation")
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="a TOML file (default: compress.quantize.int8 alone)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the compressed student's folder")
    parser.add_argument("--json", action="store_true", help="print the steps as one JSON line")


def run(args: argparse.Namespace) -> int:
    """Compress, and print each step, kept or dropped."""
    from attar.pipeline import parts
    from attar.pipeline.fit import task_in
    from attar.pipeline.progress import Console
    from attar.pipeline.recipe import read_recipe

    recipe = read_recipe(args.recipe) if args.recipe else None
    records = parts.compress(
        args.student, args.teacher, corpus(args, task_in(args.student), recipe), recipe, args.out, Console()
    )
    show(records, args.out, args.json)
    return 0
