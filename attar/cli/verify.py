"""`attar verify`: hashes, stray files, a load on this machine and the golden inputs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "Check a bundle: every hash, no stray file, and the golden inputs on this machine."
EXAMPLE = "attar verify build/sentiment/bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle: a folder, or a zip of it")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the usable cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run(args: argparse.Namespace) -> int:
    """Print OK with the worst golden difference; anything wrong is a `BundleError`."""
    from attar.runtime.bundle import Bundle
    from attar.runtime.engines.onnx import OnnxEngine
    from attar.runtime.model import Model

    bundle = Bundle.read(args.bundle)
    engine = OnnxEngine(bundle.contents["model.onnx"], threads=args.threads, files=bundle.contents)
    model = Model(bundle, engine)
    golden = bundle.contents["golden.json"]
    worst = model.replay_golden(golden)
    count = len(json.loads(golden)["texts"])
    if args.json:
        found = {"ok": True, "files": len(bundle.contents), "golden": count, "worst_golden_difference": worst}
        print(json.dumps(found))
    else:
        checked = f"{len(bundle.contents)} files match, {count} golden inputs reproduce"
        print(f"OK: {checked} (largest difference {worst:.2g})")
    return 0
