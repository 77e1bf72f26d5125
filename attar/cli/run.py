"""`attar run`: a recipe from the pretrained encoder to a gated bundle and a report."""

import argparse
import json
from pathlib import Path

from attar.cli.distill import device_argument

HELP = "Run a recipe: teacher, student, compression, gate, bundle, benchmark and report. Resumes where it was stopped."
EXAMPLE = "attar run recipes/sentiment.toml --out build/sentiment"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="a TOML file; the shipped ones are in recipes/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--data", metavar="FILE", help="your own labelled file in place of the recipe's training data")
    parser.add_argument("--allow-failed-gate", action="store_true", help="write the bundle even if the gate fails")
    device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON line")


def run(args: argparse.Namespace) -> int:
    from attar.distill import device, processes
    from attar.pipeline.progress import Console
    from attar.pipeline.recipe import read_recipe
    from attar.pipeline.report import table
    from attar.pipeline.run import Run

    where, recipe = device.chosen(args.device), read_recipe(args.recipe)
    with processes.in_turn():
        job = Run(
            recipe, args.out, Console(), data=args.data, allow_failed_gate=args.allow_failed_gate, device=where
        )  # fmt: skip
    report = job()
    print(json.dumps(report, ensure_ascii=False) if args.json else table(report))
    if not args.json:
        print(f"\nbundle: {args.out / 'bundle'}\nreport: {args.out / 'report.html'}")
    return 0
