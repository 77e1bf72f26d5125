"""`attar predict`: texts in, one JSON line an input out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from attar.cli import jobs

if TYPE_CHECKING:
    from attar.runtime.data import Examples
    from attar.runtime.engines.starting import Choice
    from attar.runtime.tasks.base import Task
    from attar.runtime.tokenizer import Text

HELP = "Answer texts with a bundle, one JSON line each, or a file into another."
EXAMPLE = 'attar predict build/sentiment/bundle "a gripping, funny film"'

CHUNK = 1024
READ = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle: a folder, or a zip of it")
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="texts; a single - reads stdin, a text a line; for pairs and "
        'questions JSON, such as \'{"question": "...", "context": "..."}\'',
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="answer the text column of a data file")
    parser.add_argument(
        "--text-column", "--column", metavar="NAME", help="the text column of --data or --input; two for a pair: A,B"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the usable cores)")
    engine_arguments(parser)
    option_arguments(parser)
    jobs.add_arguments(parser)


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments for the engine of a bundle."""
    parser.add_argument("--engine", default="onnx", metavar="NAME",
                        help="onnx (the default), openvino, tensorrt, or auto: the fastest, measured once")  # fmt: skip
    parser.add_argument("--device", metavar="NAME",
                        help="of onnx cpu, cuda or tensorrt (default: the first that the engine has)")  # fmt: skip
    parser.add_argument("--precision", metavar="NAME", help="of openvino fp32 or bf16 (default: fp32)")


def engine_choice(args: argparse.Namespace) -> Choice:
    """The engine that was asked for."""
    from attar.runtime.engines.starting import Choice

    return Choice(args.engine, args.device, args.precision)


def option_arguments(parser: argparse.ArgumentParser) -> None:
    """The argument for what a task lets users choose about its answers."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the task, such as aggregation=first for entities or top_k=3 for questions",
    )


def options(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is JSON where it can be read so, else a string."""
    from attar.runtime.errors import SettingsError

    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise SettingsError(f"--set {pair!r}: write NAME=VALUE, such as --set aggregation=first")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name] = tuple(read) if isinstance(read, list) else read
    return found


def run(args: argparse.Namespace) -> int:
    """Print the answers as they are computed, in the order of the inputs."""
    from attar.runtime.data import read_texts
    from attar.runtime.errors import SettingsError
    from attar.runtime.model import load
    from attar.runtime.tasks.base import jsonable

    job = jobs.asked(args)
    if not job and bool(args.texts) == (args.data is not None):
        raise SettingsError("give either texts (or - for stdin) or --data FILE")
    if not job and args.text_column is not None and args.data is None:
        raise SettingsError("--text-column names a column of --data, which is missing")
    choice = engine_choice(args)
    model = load(args.bundle, threads=args.threads, options=options(args.set), **asdict(choice))
    if job:
        return jobs.run(model, args)
    chunks: Iterable[Sequence[Any]]
    if args.data is not None:
        # A multi-task model may tag tokens, and its columns of labels are of no interest here.
        kind = "token-classification" if model.task.kind == "multi-task" else model.task.kind
        examples = read_texts(args.data, kind=kind, text=args.text_column)
        check_form(model.task, examples, examples.texts)
        chunks = _chunks(examples.texts)
    else:
        chunks = read_lines(sys.stdin.buffer) if args.texts == ["-"] else _chunks(args.texts)
        if model.task.pairs:
            chunks = ([_pair(line) for line in chunk] for chunk in chunks)
    for chunk in chunks:
        for answer in model(list(chunk)):
            # Bytes: JSON is UTF-8 whatever the terminal's locale says.
            sys.stdout.buffer.write(json.dumps(jsonable(answer), ensure_ascii=False).encode() + b"\n")
        sys.stdout.buffer.flush()
    return 0


def check_form(task: Task, examples: Examples, texts: Sequence[Text]) -> None:
    """Refuses pairs where the task reads single texts, and the reverse; `texts`: what it is to read of the examples."""
    from attar.runtime.errors import DataError

    if all(isinstance(text, str) != task.pairs for text in texts):
        return
    found, wanted, columns = (
        ("single texts", "pairs of texts", "the two columns of a pair with --text-column FIRST,SECOND")
        if task.pairs
        else ("pairs of texts", "single texts", "one column with --text-column NAME")
    )
    raise DataError(f"{examples.source}: holds {found}, but the model reads {wanted}; choose {columns}")


def _pair(line: str) -> Any:
    """An input of two texts from its JSON; anything else is left for the model to refuse."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _chunks(texts: Iterable[Any]) -> Iterator[list[Any]]:
    texts = list(texts)
    for start in range(0, len(texts), CHUNK):
        yield texts[start : start + CHUNK]


def read_lines(stream: BinaryIO) -> Iterator[list[str]]:
    """Lines in chunks of whatever has arrived, so that a person gets answers at once and a pipe gets batches.

    Empty lines are inputs too: the answers keep the numbering. Not UTF-8: `DataError` with the line's number,
    after the lines before it.
    """
    rest, number = b"", 0
    while data := stream.read1(READ):  # type: ignore[attr-defined]  # every buffered stream has it
        *lines, rest = (rest + data).split(b"\n")
        yield from _decode(lines, number)
        number += len(lines)
    if rest:
        yield from _decode([rest], number)


def _decode(lines: list[bytes], before: int) -> Iterator[list[str]]:
    """The decoded lines; `before` is how many lines came earlier."""
    from attar.runtime.errors import DataError

    texts: list[str] = []
    for number, line in enumerate(lines, before + 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            if texts:
                yield texts
            raise DataError(
                f"stdin, line {number}: not UTF-8: byte 0x{line[error.start]:02x} at offset {error.start}; "
                "convert it first, for example with iconv -f WINDOWS-1252 -t UTF-8"
            ) from error
        texts.append(text.removeprefix("\ufeff") if number == 1 else text)
    if texts:
        yield texts
