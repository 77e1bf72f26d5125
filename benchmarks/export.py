"""Our ONNX against the plain `torch.onnx.export` of the same fp32 weights, on one thread of ONNX Runtime.

Both graphs are optimised by the engine as far as it can, take turns, and are first checked to give the same outputs.
The plain one has eager attention: the library's other one is slower in ONNX Runtime. A classifier reads the first token
alone, by which our last layer is nearly free; a tagger reads all.

Where a session's weights happen to lie in memory moves its time by up to 5 %, so every graph has several sessions. On a
machine that does other work too, `--cpu-time` counts what the processor gave to the one thread that computes.

python benchmarks/export.py [--cpu-time] [--layers 6] [--kinds token-classification] [--rounds 9]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from random_models import CLASSES, MIXED, call, checkpoint

from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.export.onnx.plain import export_plain
from attar.runtime.bench.paired import compare_each
from attar.runtime.cpu import machine
from attar.runtime.engines.onnx import OnnxEngine

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


def measure(kind: str, layers: int, rounds: int, cpu_time: bool, batches: Sequence[str]) -> list[dict[str, object]]:
    """A record for each batch."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint(Path(scratch), layers, kind)
        student = Student.load(folder)
        models = export_plain(folder, student.task), to_onnx(student)
    pairs = [tuple(OnnxEngine(model, threads=1) for model in models) for _ in range(SESSIONS)]
    clock = time.thread_time_ns if cpu_time else time.perf_counter_ns
    found: list[dict[str, object]] = []
    for batch in batches:
        lengths = BATCHES[batch]
        calls = [(call(plain, lengths), call(ours, lengths)) for plain, ours in pairs]
        ratio = compare_each(calls * max(1, 256 // sum(lengths)), rounds, warmup=1, clock=clock)
        record = {"kind": kind, "batch": batch, **ratio.to_json(), "bar": BARS[batch]}
        found.append({**record, "difference": difference(*pairs[0], lengths)})
        print(
            f"| {kind} | {batch} | {ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] | {BARS[batch]} |", flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--kinds", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    parser.add_argument("--batches", nargs="+", default=list(BATCHES), choices=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true", help="count the time of one thread, not that of the clock")
    args = parser.parse_args()
    logging.disable()
    print("| kind | batch | times as fast | bar |\n|---|---|---|---|")
    found = [r for k in args.kinds for r in measure(k, args.layers, args.rounds, args.cpu_time, args.batches)]
    print(json.dumps({"machine": machine(), **vars(args), "ratios": found}))


if __name__ == "__main__":
    main()
