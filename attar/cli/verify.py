"""`attar verify`: hashes, stray files, a load on this machine and the golden inputs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

HELP = "Check a bundle: every hash, no stray file, and the golden inputs on this machine."
EXAMPLE = "attar verify build/sentiment/bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the usable cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run(args: argparse.Namespace) -> int:
    """Print OK with the worst golden difference; anything wrong is a `BundleError`."""
    from attar.runtime.bundle import MANIFEST, SEAL, Bundle
    from attar.runtime.engines.onnx import OnnxEngine
    from attar.runtime.errors import BundleError
    from attar.runtime.model import Model

    bundle = Bundle.read(args.bundle)
    stray = sorted({p.name for p in bundle.path.iterdir()} - {*bundle.contents, MANIFEST, SEAL})
    if stray:
        raise BundleError(f"{bundle.path / stray[0]} is not listed in {MANIFEST}; remove it or copy the bundle again")
    missing = sorted({"model.onnx", "tokenizer.json", "golden.json"} - bundle.contents.keys())
    if missing:
        raise BundleError(f"the bundle at {bundle.path} lists no {missing[0]}; export it again")
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
