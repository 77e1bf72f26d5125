"""`attar suggest`: which student keeps to a latency or a size on this machine."""

import argparse
import json

HELP = "Propose a student's depth, width, heads and neurons for a latency or a size, by timing layers on this machine."
EXAMPLE = "attar suggest asset:minilm --latency-ms 1 --size-mb 16"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the encoder to start from: a folder, a hub id, or asset:minilm")
    parser.add_argument("--latency-ms", type=float, metavar="X", help="at most so many milliseconds for a single text")
    parser.add_argument("--size-mb", type=float, metavar="Y", help="a bundle of at most so many MB")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="length of that text (default: 16)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to time with (default: the usable cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run(args: argparse.Namespace) -> int:
    from attar.distill.data.assets import resolve_model
    from attar.distill.finetune import local_folder
    from attar.pipeline.progress import Console
    from attar.pipeline.suggest import Wanted, suggest, text

    wanted = Wanted(args.latency_ms, args.size_mb, args.tokens)
    record = suggest(local_folder(resolve_model(args.model)), args.model, wanted, Console(), args.threads)
    print(json.dumps(record) if args.json else text(record))
    return 0
