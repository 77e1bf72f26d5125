"""`attar serve`: a bundle over HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from attar.cli.predict import option_arguments, options

HELP = "Serve a bundle over HTTP: POST /predict, GET /livez, GET /readyz."
EXAMPLE = "attar serve build/sentiment/bundle --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="the port (default: 8000; 0: a free one)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the usable cores)")
    option_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from attar.runtime.server import serve

    serve(args.bundle, args.host, args.port, args.threads, options(args.set))
    return 0
