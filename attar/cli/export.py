"""`attar export`: a student into a bundle."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.cli.distill import column_arguments

if TYPE_CHECKING:
    from attar.pipeline.proof import Shipping

HELP = "Export a student to a bundle: parity with PyTorch and, with test data and a teacher, the accuracy gate."
EXAMPLE = "attar export student --data test.csv --teacher path/to/teacher --out bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("student", type=Path, help="a folder that attar distill or attar compress wrote")
    parser.add_argument("--data", metavar="FILE", help="labelled texts that chose nothing: the gate's examples")
    parser.add_argument("--teacher", help="the model that the gate compares with: a folder or a hub id")
    gate_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prove, write and print."""
    from attar.compress.gate import GateSettings
    from attar.pipeline import parts
    from attar.pipeline.data import read_for
    from attar.pipeline.fit import task_in
    from attar.pipeline.progress import Console

    gate = GateSettings(args.margin, args.confidence)
    test = None
    if args.data:
        test = read_for(task_in(args.student), args.data, text=args.text_column, label=args.label_column)
    found = parts.export(args.student, test, args.teacher, gate, shipping(args), Console())
    show(found, args.json)
    return 0


def gate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of whatever ends in a gated bundle."""
    column_arguments(parser)
    parser.add_argument("--margin", type=float, default=2.0, metavar="POINTS", help="points it may lose (default: 2)")
    parser.add_argument(
        "--confidence", type=float, default=0.95, metavar="P", help="of no larger loss, one-sided (default: 0.95)"
    )
    parser.add_argument("--allow-failed-gate", action="store_true", help="write the bundle even if the gate fails")
    parser.add_argument(
        "--weights-beside", type=float, default=2000, metavar="MB", help="keep more weights than this in files beside "
        "the graph, as those of more than one ONNX file holds always are (default: 2000)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle's folder")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def shipping(args: argparse.Namespace) -> Shipping:
    """What these arguments say of where the bundle goes, and how."""
    from attar.export.onnx.files import LIMIT
    from attar.pipeline.proof import Shipping
    from attar.runtime.errors import SettingsError

    if not 0 <= args.weights_beside <= LIMIT / 1e6:
        raise SettingsError(f"--weights-beside must be from 0 to {LIMIT / 1e6:.0f} MB, not {args.weights_beside:g}")
    return Shipping(args.out, args.allow_failed_gate, round(args.weights_beside * 1e6))


def show(found: dict[str, Any], as_json: bool) -> None:
    """Print what was proved and where the bundle is."""
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    print(found["verdict"])
    print(f"parity: fp32 logits within {found['parity']['max_abs']:.1e} of PyTorch")
    print(f"bundle: {found['bundle']} ({found['scheme']}, {found['size'] / 1e6:.2f} MB)")
