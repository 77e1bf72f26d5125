"""`attar convert`: any fine-tuned encoder into a gated bundle, with labelled texts or with any texts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from attar.cli.export import gate_arguments, shipping, show

HELP = "Convert any fine-tuned encoder to a gated bundle as it is; the BERT family also in int8, or by steps of a file."
EXAMPLE = "attar convert path/or/hub-id --data dev.csv --int8 --out bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("model", help="a fine-tuned model: a folder or a hub id")
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument(
        "--data",
        metavar="FILE",
        help="labelled texts the model was not trained on; the gate compares the bundle with the model in PyTorch fp32",
    )
    texts.add_argument(
        "--texts",
        metavar="FILE",
        help="a few hundred texts without labels: the model's own answers stand in for them, and the gate judges how "
        "often the bundle agrees",
    )
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--int8", action="store_true", help="quantize: a third of the texts calibrates and chooses")
    steps.add_argument(
        "--steps",
        type=Path,
        metavar="FILE",
        help="a TOML file of [[step]] tables, like those of a recipe: a third of the texts is learnt from, a sixth "
        "chooses, and the gate judges on the other half",
    )
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="tokens to read (default: the model's, at most 512)"
    )
    gate_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Convert, prove, write and print."""
    from attar.compress.gate import GateSettings
    from attar.pipeline import parts
    from attar.pipeline.data import read_for
    from attar.pipeline.fit import task_in
    from attar.pipeline.progress import Console
    from attar.pipeline.recipe import read_steps

    gate = GateSettings(args.margin, args.confidence)
    steps = read_steps(args.steps) if args.steps else (parts.INT8,) if args.int8 else ()
    data = read_for(
        task_in(args.model), args.data or args.texts, text=args.text_column, label=args.label_column,
        require_labels=args.texts is None,
    )  # fmt: skip
    if args.texts is not None:
        data = replace(data, labels=None)
    found = parts.convert(args.model, data, gate, shipping(args), Console(), steps=steps, max_length=args.max_length)
    show(found, args.json)
    return 0
