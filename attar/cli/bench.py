"""`attar bench`: a bundle against its baselines, interleaved and paired."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.cli.predict import engine_arguments, engine_choice

if TYPE_CHECKING:
    from attar.runtime.bench.result import BenchResult
    from attar.runtime.bench.sweep import SweepResult
    from attar.runtime.data import Examples
    from attar.runtime.tasks.base import Task
    from attar.runtime.tokenizer import Text

TOO_NOISY = 3
"""The exit code where the bundle differs from itself, or could by 5 %: the figures are printed, and marked."""
HELP = "Measure a bundle against baselines: a table, or with --json one JSON line."
EXAMPLE = "attar bench build/sentiment/bundle --against path/to/teacher --data test.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle: a folder, or a zip of it")
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a baseline: a Hugging Face model folder or another bundle; may be repeated",
    )
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="how the Hugging Face folders of --against are run: torch (fp32 eager, the default), torch-compile, "
        "torch-bf16, or onnx: the fastest settings of ONNX Runtime on their plain fp32 export; may be repeated. A "
        "missing package is refused before anything is measured",
    )
    parser.add_argument(
        "--sweep",
        nargs="+",
        metavar="NAME=VALUES",
        help="throughput at every combination of batch=1,8 length=16,64 (tokens) threads=1,2 engine=onnx,cuda instead",
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="texts to measure with (default: built-in sentences)")
    parser.add_argument("--text-column", metavar="NAME", help="the text column of --data")
    parser.add_argument("--label-column", metavar="NAME", help="the label column of --data; with labels, accuracy too")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="interleaved rounds (default: 9, and up to 72 until the bundle differs from itself by chance alone; with "
        "--sweep 9 at each point)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each system (default: the usable cores)")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write a page with pictures too, such as report.html"
    )
    engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of the table")
    group = parser.add_argument_group("MLPerf's scenarios, by the official LoadGen (pip install 'attar[mlperf]')")
    group.add_argument("--mlperf", metavar="SCENARIO", help="run this scenario with the bundle alone: single-stream, "
                       "multi-stream, server (Poisson arrivals and a latency bound) or offline")  # fmt: skip
    group.add_argument("--logs", type=Path, metavar="DIR", help="where LoadGen's logs are kept: a new or empty folder")
    group.add_argument("--seconds", type=float, default=10.0, metavar="S",
                       help="the least that it takes (default: 10; official submissions take 600)")  # fmt: skip
    group.add_argument("--latency-ms", type=float, default=50.0, metavar="MS",
                       help="server: what 99 %% of the requests must stay under (default: 50)")  # fmt: skip
    group.add_argument("--qps", type=float, metavar="N", help="server: requests a second (default: the highest valid "
                       "of nine shares of the offline throughput)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from attar.pipeline.baselines import baselines
    from attar.runtime.bench.coordinator import bench
    from attar.runtime.bench.sweep import read_sweep, sweep
    from attar.runtime.bundle import Bundle
    from attar.runtime.engines.starting import Choice
    from attar.runtime.errors import SettingsError

    task = Bundle.read(args.bundle).manifest.task
    if args.mlperf is not None:
        return _mlperf(task, args)
    if args.logs is not None or args.qps is not None:
        raise SettingsError("--logs and --qps are for a scenario: give --mlperf too")
    if args.sweep is not None and args.threads is not None:
        raise SettingsError("with --sweep the threads are one of its axes: say threads=N there")
    choice = engine_choice(args)
    if args.sweep is not None and choice != Choice():
        raise SettingsError("with --sweep the engine is one of its axes: say engine=NAME there")
    over = None if args.sweep is None else read_sweep(args.sweep)
    _check_report(args.report)
    texts, labels = _given(task, args)
    found: BenchResult | SweepResult
    with tempfile.TemporaryDirectory() as scratch:
        against = baselines(args.against, args.baseline, task.max_length, Path(scratch))
        if over is not None:
            found = sweep(args.bundle, against, texts, over, args.rounds, _progress)
        else:
            found = bench(args.bundle, against, texts, labels, args.rounds, args.threads, _progress, choice)
    if args.report is not None:
        _write_report(args.report, found)
    print(json.dumps(found.to_json()) if args.json else found.table(), flush=True)
    if found.noisy:
        _progress("the machine is too noisy to judge: the figures are marked; stop other work, or try --threads 1")
    return TOO_NOISY if found.noisy else 0


def _mlperf(task: Task, args: argparse.Namespace) -> int:
    """One scenario; what it found is printed, and its logs lie where --logs says."""
    from attar.runtime.bench.loadgen import Run, highest, measured
    from attar.runtime.errors import SettingsError
    from attar.runtime.model import load

    if args.against or args.baseline or args.sweep or args.report or args.rounds:
        raise SettingsError("--mlperf takes the bundle alone: leave out --against, --baseline, --sweep, --rounds and "
                            "--report")  # fmt: skip
    if args.logs is None:
        raise SettingsError("--mlperf keeps LoadGen's logs: say where with --logs DIR")
    if args.qps is not None and args.mlperf != "server":
        raise SettingsError("--qps is of the server scenario alone")
    texts, _ = _given(task, args)
    model = load(args.bundle, threads=args.threads, **asdict(engine_choice(args)))
    asked = Run(args.mlperf, args.seconds, args.latency_ms, args.qps or 100.0)
    search = args.mlperf == "server" and args.qps is None
    found = (highest if search else measured)(model, task.inputs(texts), asked, args.logs)
    print(json.dumps(found.to_json()) if args.json else found, flush=True)
    return 0


def _given(task: Task, args: argparse.Namespace) -> tuple[Sequence[Text], Sequence[Any] | None]:
    """The texts and labels of --data, or the built-in sentences."""
    from attar.cli.predict import check_form
    from attar.runtime.bench.texts import TEXTS, pairs
    from attar.runtime.errors import SettingsError

    if args.data is not None:
        examples = _read(task, args)
        check_form(task, examples, task.inputs(examples.texts))
        return examples.texts, examples.labels
    if args.text_column is not None or args.label_column is not None:
        raise SettingsError("--text-column and --label-column name columns of --data, which is missing")
    return pairs() if task.pairs else TEXTS, None


def _check_report(path: Path | None) -> None:
    """Refuses a page that could not be drawn or written before minutes are spent."""
    from attar.runtime.errors import MissingExtraError, SettingsError

    if path is None:
        return
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "train")
    if not path.parent.is_dir() or path.is_dir():
        raise SettingsError(f"--report {path}: name a file in a folder that exists")


def _write_report(path: Path, found: BenchResult | SweepResult) -> None:
    from attar.pipeline.bench_page import bench_page, sweep_page
    from attar.pipeline.report import write_texts
    from attar.runtime.bench.result import BenchResult

    page = bench_page(found) if isinstance(found, BenchResult) else sweep_page(found)
    write_texts({path.name: page}, path.parent)


def _read(task: Task, args: argparse.Namespace) -> Examples:
    """--data, with labels if it has any; the label columns of a multi-task model are named A,B, in its heads' order."""
    from attar.runtime.data import read_examples
    from attar.runtime.tasks.multi import MultiTask

    label: str | None = args.label_column
    heads: tuple[tuple[str, str, str], ...] = ()
    if isinstance(task, MultiTask):
        heads, label = task.columns(label.split(",") if label else ()), None
    return read_examples(
        args.data,
        kind=task.kind,
        text=args.text_column,
        label=label,
        require_labels=args.label_column is not None,
        heads=heads,
    )


def _progress(line: str) -> None:
    print(f"attar: {line}", file=sys.stderr, flush=True)
