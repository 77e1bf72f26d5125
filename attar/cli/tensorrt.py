"""`attar tensorrt`: engines for NVIDIA GPUs into a bundle."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

HELP = "Add what TensorRT needs to a bundle: a typed model, profiles from real texts, engines built without a GPU."
EXAMPLE = (
    "attar tensorrt student bundle --data texts.txt --precision fp16 --compute-capability 8.6,8.9 --out bundle-gpu"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("student", type=Path, help="the folder that the bundle was exported from")
    parser.add_argument("bundle", type=Path, help="a bundle of attar export, or of attar convert as the model was")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="texts as it will read them: their lengths make the profiles, int8 and fp8 are calibrated on them",
    )
    parser.add_argument("--text-column", metavar="NAME", help="the text column of --data")
    parser.add_argument(
        "--precision", default="fp16", help="of matrix products: fp32, fp16, bf16, int8 or fp8 (default: fp16)"
    )
    parser.add_argument(
        "--compute-capability", required=True, metavar="LIST", help="of the GPUs to build for, such as 8.6,8.9"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new bundle's folder; may be BUNDLE")
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run(args: argparse.Namespace) -> int:
    """Build, read back, write and print."""
    from attar.distill.student import Student
    from attar.export.tensorrt import extend
    from attar.pipeline.data import read_for
    from attar.pipeline.parts import vacant
    from attar.runtime.bundle import MANIFEST, Bundle

    out = vacant(args.out, MANIFEST)
    bundle = Bundle.read(args.bundle)
    task = bundle.manifest.task
    data = read_for(task, args.data, text=args.text_column, require_labels=False)
    capabilities = [part.strip() for part in args.compute_capability.split(",") if part.strip()]
    student = Student.load(args.student)
    found = extend(bundle, student, task.inputs(data.texts), args.precision, capabilities, out)
    if args.json:
        print(json.dumps({"bundle": str(out), **asdict(found)}))
        return 0
    for engine in found.engines:
        read = (
            f"{engine.confirmed} matrix products read back in {args.precision}" if engine.confirmed else "not read back"
        )
        print(f"{engine.file}: {engine.size / 1e6:.2f} MB, {read}")
    print(
        f"on the CPU the model in {found.judged} gives the bundle's answers for {found.agreement:.1f} % of "
        f"{found.texts} texts, within {found.difference:.2g} in probability"
    )
    print(f"bundle: {out}; no engine has been run, for that takes a GPU")
    return 0
