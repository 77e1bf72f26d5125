"""`attar package`: a bundle or a student into a folder that another system loads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from attar.export.folders import FORMATS

HELP = "Write a bundle as a zip, or as a folder for Triton, KServe, OpenVINO, optimum, transformers.js or transformers."
EXAMPLE = "attar package build/sentiment/bundle --to triton --out repository"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", type=Path, help="a bundle, or a student: a folder with weights")
    parser.add_argument("--to", required=True, choices=(*FORMATS, "zip"), help="the system that is to load it; "
                        "zip: attar itself, which reads the one file in place of the folder")  # fmt: skip
    parser.add_argument(
        "--student",
        type=Path,
        metavar="DIR",
        help="the student that the bundle was exported from, for what needs weights: openvino of a quantized bundle, "
        "huggingface, and the fp32 model of transformers-js",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the folder, or with --to zip "
                        "the file; an earlier one is replaced")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON line")


def run(args: argparse.Namespace) -> int:
    """Write and print."""
    if args.to == "zip":
        return _zip(args)
    from attar.export.folders.package import RECORD, certificate, package
    from attar.export.folders.source import read_source
    from attar.pipeline.parts import vacant

    out = vacant(args.out, RECORD)
    source = read_source(args.source, args.student)
    made = package(source, args.to, out)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    if args.json:
        print(json.dumps({"out": str(args.out), "format": args.to, "certified": made.own or None, "files": files}))
        return 0
    print(f"{args.out}: {', '.join(files)}")
    print(certificate(source, made))
    return 0


def _zip(args: argparse.Namespace) -> int:
    """Write a bundle's files into one, and print what it is called and what its manifest hashes to."""
    from attar.runtime.bundle import SEAL, Bundle
    from attar.runtime.errors import SettingsError
    from attar.runtime.files import pack

    if args.student is not None:
        raise SettingsError("zip takes the bundle's own files and no weights: leave out --student")
    if args.out.suffix != ".zip":
        raise SettingsError(f"--out {args.out}: the name of a zip ends in .zip, by which it is known")
    bundle = Bundle.read(args.source)
    pack(bundle.files, args.out)
    if args.json:
        print(json.dumps({"out": str(args.out), "format": "zip", "files": sorted(bundle.files)}))
        return 0
    print(f"{args.out}: {', '.join(sorted(bundle.files))}")
    print(f"manifest: sha256 {bundle.proof[SEAL].decode().split()[0]}")
    return 0
