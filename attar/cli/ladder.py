"""`attar ladder`: several students of one teacher, and the front of accuracy against latency and size."""

import argparse
import json
from pathlib import Path

from attar.cli.distill import device_argument

HELP = "Train several students of one teacher; print and plot accuracy against latency and size. Resumes."
EXAMPLE = "attar ladder recipes/clinc150-ladder.toml --out build/ladder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="a TOML file with [[rung]] tables; the shipped ones are in recipes/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--data", metavar="FILE", help="your own labelled file in place of the recipe's training data")
    parser.add_argument("--only", metavar="NAMES", help="train and report these rungs alone, separated by commas")
    device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the ladder as one JSON line")


def run(args: argparse.Namespace) -> int:
    from attar.distill.device import chosen
    from attar.pipeline.ladder import chosen_of, climb, text
    from attar.pipeline.progress import Console
    from attar.pipeline.recipe import read_ladder

    where = chosen(args.device)
    rungs = chosen_of(read_ladder(args.recipe), args.only)
    record = climb(rungs, args.out, Console(), args.data, where)
    print(json.dumps(record, ensure_ascii=False) if args.json else text(record))
    if not args.json:
        print(f"\npage: {args.out / 'ladder.html'}")
    return 0
