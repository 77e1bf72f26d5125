"""`attar bench`: a bundle against its baselines, interleaved and paired."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.cli.predict import engine_arguments, engine_choice

if TYPE_CHECKING:
    from attar.runtime.data import Examples
    from attar.runtime.tasks.base import Task
    from attar.runtime.tokenizer import Text

HELP = "Measure a bundle against baselines: a table, or with --json one JSON line."
EXAMPLE = "attar bench build/sentiment/bundle --against path/to/teacher --data test.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a baseline: a Hugging Face model folder or another bundle; may be repeated",
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="texts to measure with (default: built-in sentences)")
    parser.add_argument("--text-column", metavar="NAME", help="the text column of --data")
    parser.add_argument("--label-column", metavar="NAME", help="the label column of --data; with labels, accuracy too")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="interleaved rounds (default: 9)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each system (default: the usable cores)")
    engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the table")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from attar.cli.predict import check_form
    from attar.runtime.bench.coordinator import bench
    from attar.runtime.bench.texts import TEXTS, pairs
    from attar.runtime.bundle import Bundle
    from attar.runtime.errors import SettingsError

    task = Bundle.read(args.bundle).manifest.task
    texts: Sequence[Text] = pairs() if task.pairs else TEXTS
    labels: Sequence[Any] | None = None
    if args.data is not None:
        examples = _read(task, args)
        check_form(task, examples, task.inputs(examples.texts))
        texts, labels = examples.texts, examples.labels
    elif args.text_column is not None or args.label_column is not None:
        raise SettingsError("--text-column and --label-column name columns of --data, which is missing")
    result = bench(
        args.bundle, args.against, texts, labels, rounds=args.rounds, threads=args.threads, progress=_progress,
        choice=engine_choice(args),
    )  # fmt: skip
    print(json.dumps(result.to_json()) if args.json else result.table(), flush=True)
    return 0


def _read(task: Task, args: argparse.Namespace) -> Examples:
    """--data, with labels if it has any; the label columns of a multi-task model are named A,B, in its heads' order."""
    from attar.runtime.data import read_examples
    from attar.runtime.tasks.multi import MultiTask

    label: str | None = args.label_column
    heads: tuple[tuple[str, str, str], ...] = ()
    if isinstance(task, MultiTask):
        heads, label = task.columns(label.split(",") if label else ()), None
    return read_examples(
        args.data,
        kind=task.kind,
        text=args.text_column,
        label=label,
        require_labels=args.label_column is not None,
        heads=heads,
    )


def _progress(line: str) -> None:
    print(f"attar: {line}", file=sys.stderr, flush=True)
