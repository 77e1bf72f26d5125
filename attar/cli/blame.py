"""`attar blame`: which stage, layer and matrix the loss of a quantized student comes from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from attar.cli.distill import column_arguments

HELP = "Name the stages, layers and matrices that lose accuracy: points lost and milliseconds won by each, ranked."
EXAMPLE = "attar blame build/sentiment --data dev.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("path", type=Path, help="the folder of a run, its bundle, or a student's folder")
    parser.add_argument("--data", required=True, metavar="FILE", help="labelled texts to judge by, a few hundred")
    parser.add_argument("--student", type=Path, metavar="DIR", help="the student's folder, where it is elsewhere")
    column_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the tables")


def run(args: argparse.Namespace) -> int:
    """Measure every part and print the ranking."""
    from attar.pipeline import blame
    from attar.pipeline.data import named, read_for
    from attar.pipeline.progress import Console

    student = blame.student_in(args.path, args.student)
    data = read_for(student.task, args.data, text=args.text_column, label=args.label_column)
    found = blame.find(student, named(data, student.task), Console()) if student.plan else {}
    record = {"stages": blame.stages_of(args.path), **found}
    print(json.dumps(record, ensure_ascii=False) if args.json else blame.text(record))
    return 0
