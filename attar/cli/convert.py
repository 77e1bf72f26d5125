"""`attar convert`: any fine-tuned encoder into a gated bundle, without training."""

from __future__ import annotations

import argparse

from attar.cli.export import gate_arguments, show

HELP = "Convert a fine-tuned BERT-family model to a gated bundle, without training."
EXAMPLE = "attar convert path/or/hub-id --data dev.csv --int8 --out bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("model", help="a fine-tuned model: a folder or a hub id")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="labelled texts the model was not trained on; the gate compares the bundle with the model in PyTorch fp32",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantize: a third of the data calibrates and chooses the scheme, the gate judges on the rest, "
        "so its examples chose nothing",
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

    gate = GateSettings(args.margin, args.confidence)
    data = read_for(task_in(args.model), args.data, text=args.text_column, label=args.label_column)
    found = parts.convert(
        args.model, data, gate, args.out, Console(),
        quantize=args.int8, max_length=args.max_length, allow_failed_gate=args.allow_failed_gate,
    )  # fmt: skip
    show(found, args.json)
    return 0
