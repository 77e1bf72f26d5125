"""`attar serve`: bundles over HTTP, and gRPC."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from attar.cli.predict import engine_arguments, engine_choice, option_arguments, options

HELP = "Serve a bundle, or a folder of bundles, over HTTP and gRPC: JSON, Open Inference Protocol, OpenAI embeddings."
EXAMPLE = "attar serve build/sentiment/bundle --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle, a folder or a zip; or a folder of bundles")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="the port (default: 8000; 0: a free one)")
    parser.add_argument("--grpc-port", type=int, metavar="N",
                        help="another port, for gRPC (default: none; 0: a free one)")  # fmt: skip
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: a worker's share of the usable cores)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--max-queue", type=int, default=256, metavar="N", help="requests that may wait (default: 256)")
    parser.add_argument("--max-wait", type=float, default=2.0, metavar="S",
                        help="longest wait, in seconds, before a request is refused instead (default: 2)")  # fmt: skip
    parser.add_argument("--warm-up", type=float, default=0.1, metavar="S",
                        help="seconds to compute typical shapes before the first request (default: 0.1)")  # fmt: skip
    parser.add_argument("--drain-seconds", type=float, default=0.0, metavar="S",
                        help="seconds to go on refusing requests after SIGTERM (default: 0)")  # fmt: skip
    parser.add_argument("--watch", type=float, default=0.0, metavar="S",
                        help="seconds between two looks for changed bundles (default: only at SIGHUP)")  # fmt: skip
    parser.add_argument("--api-key-file", type=Path, metavar="FILE",
                        help="holds the key that clients must bring (default: ATTAR_API_KEY, if set)")  # fmt: skip
    parser.add_argument("--ssl-certfile", metavar="FILE", help="a certificate in PEM: serve over TLS")
    parser.add_argument("--ssl-keyfile", metavar="FILE", help="its private key")
    parser.add_argument("--log-requests", action="store_true", help="log route, code and seconds of each request")
    engine_arguments(parser)
    option_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from attar.runtime.server import Settings, serve
    from attar.runtime.waiting import Limits

    settings = Settings(
        api_key=_key(args.api_key_file),
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
        grpc_port=args.grpc_port,
        limits=Limits(max_requests=args.max_queue, max_wait=args.max_wait),
        warm_up=args.warm_up,
        drain_seconds=args.drain_seconds,
        engine=engine_choice(args),
        log_requests=args.log_requests,
        workers=args.workers,
        watch=args.watch,
    )
    serve(args.bundle, args.host, args.port, args.threads, options(args.set), settings)
    return 0


def _key(path: Path | None) -> str | None:
    """What the file holds, else what ATTAR_API_KEY says, else none."""
    from attar.runtime.errors import SettingsError

    if path is None:
        return os.environ.get("ATTAR_API_KEY")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the API key cannot be read from {path}: {error}") from error
