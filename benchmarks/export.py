"""Our ONNX against the plain `torch.onnx.export` of the same fp32 weights, on one thread of ONNX Runtime.

Both graphs are optimised by the engine as far as it can, take turns, and are first checked to give the same outputs.
The plain one has eager attention: the library's other one is slower in ONNX Runtime. A classifier reads the first token
alone, by which our last layer is nearly free; a tagger reads all.

Where a session's weights happen to lie in memory moves its time by up to 5 %, so every graph has several sessions. On a
machine that does other work too, `--cpu-time` counts what the processor gave to the one thread that computes.

python benchmarks/export.py [--cpu-time] [--layers 6] [--kinds token-classification] [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.export.onnx.plain import export_plain
from attar.runtime.bench.paired import compare_each
from attar.runtime.cpu import machine
from attar.runtime.engines.onnx import OnnxEngine
from benchmarks.random_models import CLASSES, MIXED, call, checkpoint
from benchmarks.record import Record, cells

HEADER = "| kind | batch | times as fast | bar |\n|---|---|---|---|"
SESSIONS = 3
BATCHES: dict[str, list[int]] = {
    "1 x 16": [16],
    "1 x 128": [128],
    "8 x 128": [128] * 8,
    "32 x 64": [64] * 32,
    "32, mixed": MIXED,
}
BARS = {name: 1.3 if name == "32, mixed" else 1.15 for name in BATCHES}


def difference(plain: OnnxEngine, ours: OnnxEngine, lengths: list[int]) -> float:
    """The largest between the outputs of real tokens, relative to the largest output (at least 1)."""
    found, wanted = (call(engine, lengths)() for engine in (ours, plain))
    assert isinstance(found, dict) and isinstance(wanted, dict)
    worst = 0.0
    for name, expected in wanted.items():
        real = np.arange(max(lengths))[None] < np.array(lengths)[:, None] if expected.ndim == 3 else slice(None)
        error = np.abs(found[name][real] - expected[real]).max()
        worst = max(worst, float(error / max(1.0, np.abs(expected[real]).max())))
    return worst


def measure(kind: str, layers: int, rounds: int, cpu_time: bool, batches: Sequence[str]) -> list[dict[str, Any]]:
    """A record for each batch."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint(Path(scratch), layers, kind)
        student = Student.load(folder)
        models = export_plain(folder, student.task), to_onnx(student)
    pairs = [tuple(OnnxEngine(model, threads=1) for model in models) for _ in range(SESSIONS)]
    clock = time.thread_time_ns if cpu_time else time.perf_counter_ns
    found: list[dict[str, Any]] = []
    for batch in batches:
        lengths = BATCHES[batch]
        calls = [(call(plain, lengths), call(ours, lengths)) for plain, ours in pairs]
        ratio = compare_each(calls * max(1, 256 // sum(lengths)), rounds, warmup=1, clock=clock)
        record: dict[str, Any] = {"kind": kind, "batch": batch, **ratio.to_json(), "bar": BARS[batch]}
        found.append({**record, "difference": difference(*pairs[0], lengths)})
        print(line(found[-1]), flush=True)
    return found


def line(record: Mapping[str, Any]) -> str:
    """The row of a record."""
    ratio = f"{record['ratio']:.2f} [{record['low']:.2f}, {record['high']:.2f}]"
    return f"| {record['kind']} | {record['batch']} | {ratio} | {record['bar']} |"


def note(args: argparse.Namespace) -> str:
    """How the ratios were taken."""
    clock = "processor time of the thread" if args.cpu_time else "wall time"
    return (
        f"{args.layers} layers of MiniLM's sizes with random weights, fp32, one thread of ONNX Runtime: how many times "
        f"as fast as the plain export of PyTorch (eager attention), by {clock}, {SESSIONS} sessions of each graph in "
        f"{args.rounds} rounds in turns; geometric means with 95 % t intervals."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--kinds", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    parser.add_argument("--batches", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true", help="count the time of one thread, not that of the clock")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record of the table")
    args = parser.parse_args()
    logging.disable()
    print(HEADER)
    found = [r for k in args.kinds for r in measure(k, args.layers, args.rounds, args.cpu_time, args.batches)]
    lines = [cells(line(record)) for record in found]
    Record("The exported graph", cells(HEADER.splitlines()[0]), lines, note(args), found).write(args.json)
    told = {name: value for name, value in vars(args).items() if name != "json"}
    print(json.dumps({"machine": machine(), **told, "ratios": found}))


if __name__ == "__main__":
    main()
