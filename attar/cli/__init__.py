"""The command line: one module a verb, and only the chosen verb's module does any work.

A verb's module holds `HELP` (one line), `EXAMPLE`, `add_arguments(parser)` and `run(args) -> exit code`. It
imports what is heavy inside `run`, so that `attar --help` is quick and needs no torch.
"""

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from attar.runtime.errors import AttarError, MissingExtraError, SettingsError
from attar.runtime.version import __version__

VERBS = (
    "run",
    "ladder",
    "suggest",
    "distill",
    "compress",
    "export",
    "convert",
    "package",
    "tensorrt",
    "predict",
    "bench",
    "serve",
    "inspect",
    "blame",
    "verify",
    "doctor",
    "fetch",
)

# Those that several processes can do together.
TRAINING = ("run", "ladder", "distill")

# The extra that brings each optional package.
EXTRAS = {
    "grpc": "serve",
    "matplotlib": "train",
    "onnx": "train",
    "onnxruntime": "cpu",
    "onnxscript": "train",
    "openvino": "openvino",
    "pyarrow": "parquet",
    "safetensors": "train",
    "starlette": "serve",
    "tensorrt_rtx": "tensorrt",
    "torch": "train",
    "transformers": "train",
    "uvicorn": "serve",
}

REFUSED = 2  # an argument or an input attar cannot work with, as argparse has it
INTERRUPTED = 130  # 128 + SIGINT
PIPE_CLOSED = 141  # 128 + SIGPIPE: the reader of our output has gone


class Verb(Protocol):
    """What each module of attar.cli offers."""

    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the verb's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attar command and return its exit code; an expected failure is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _together(arguments):
            code = _dispatch(arguments)
        sys.stdout.flush()  # a closed pipe shows itself here and not at interpreter exit
        return code
    except AttarError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _refuse(str(MissingExtraError(package, EXTRAS[package])))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return PIPE_CLOSED


@contextlib.contextmanager
def _together(arguments: list[str]) -> Iterator[None]:
    """Joins the processes that a launcher has started, where it has; all but the first of them are silent."""
    size = os.environ.get("WORLD_SIZE")
    # What accelerate sets where it is told `--cpu --num_processes 2`, and starts a single process.
    if size is None and "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ:
        raise SettingsError(
            "accelerate has started one process: with --cpu it needs mpirun for more; say "
            "`accelerate launch --multi_gpu --num_processes N`, which starts them on CPUs too, or use torchrun"
        )
    if size in (None, "1"):
        yield
        return
    if not arguments or arguments[0] not in TRAINING:
        raise SettingsError(f"only {', '.join(TRAINING)} are shared out among processes: start one process of attar")
    from attar.distill import processes

    with processes.joined(), contextlib.ExitStack() as stack:
        if not processes.leads():
            silence = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(silence))
            stack.enter_context(contextlib.redirect_stderr(silence))
        yield


def load_verb(name: str) -> Verb:
    """Import the module of one verb."""
    return cast(Verb, importlib.import_module(f"attar.cli.{name}"))


def verb_parser(name: str) -> argparse.ArgumentParser:
    """Build the argument parser of one verb, its example included."""
    verb = load_verb(name)
    parser = argparse.ArgumentParser(
        prog=f"attar {name}",
        description=verb.HELP,
        epilog=f"example:\n  {verb.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verb.add_arguments(parser)
    return parser


def _dispatch(arguments: list[str]) -> int:
    try:
        if arguments and arguments[0] in VERBS:
            args = verb_parser(arguments[0]).parse_intermixed_args(arguments[1:])
        else:
            _top_parser(arguments).parse_args(arguments)
            return 0
    except SystemExit as leaving:  # argparse has printed the help, the version or the error
        return leaving.code if isinstance(leaving.code, int) else REFUSED
    return load_verb(arguments[0]).run(args)


def _top_parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser for everything that is not a verb: help, version, and a mistyped verb, which it refuses."""
    wants_help = not arguments or bool({"-h", "--help"} & set(arguments))
    lines = [f"  {name:<9} {load_verb(name).HELP}" for name in VERBS] if wants_help else []
    parser = argparse.ArgumentParser(
        prog="attar",
        description="The smallest, fastest student that keeps its teacher's promise.",
        epilog="\n".join(["verbs:", *lines, "", "`attar VERB --help` shows its arguments and an example."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"attar {__version__}")
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="what to do; listed below")
    if not arguments:
        parser.print_help()
        parser.exit(REFUSED)
    return parser


def _refuse(message: str) -> int:
    print(f"attar: error: {message}", file=sys.stderr)
    return REFUSED


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not trip over the closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
