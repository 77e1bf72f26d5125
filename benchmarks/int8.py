"""Speed of int8 schemes against ONNX Runtime's own dynamic int8 (per tensor) of the same graph, on one thread.

python benchmarks/int8.py                               # 6 and 3 layers of MiniLM's sizes, every row, every batch
python benchmarks/int8.py --layers 6 --rows per_token --rounds 21
python benchmarks/int8.py --json FILE                   # the record of the table, for benchmarks/RESULTS.md

Weights are random: speed does not depend on them, accuracy does, and is not asked for here. Above 1 a row is faster
than the baseline. The baseline and a row take turns within every round (runtime/bench/paired.py).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.static import calibrate, shared
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.export.onnx.plain import export_plain
from attar.runtime.bench.paired import compare
from attar.runtime.cpu import machine
from attar.runtime.engines.onnx import OnnxEngine
from benchmarks.random_models import MIXED, call, checkpoint
from benchmarks.record import Record, cells

BATCHES: dict[str, list[int]] = {
    "1 x 16": [16],
    "8 x 64": [64] * 8,
    "32 x 64": [64] * 32,
    "32, mixed": MIXED,
}
HEADER = "| layers | row | " + " | ".join(BATCHES) + " |\n|---|---|" + "---|" * len(BATCHES)
BASELINE = "dynamic"
WORDS = ("w1 w2 w3", "w4 w5")
"""Texts in the made-up words of the tokenizer."""


def dynamic(model: bytes, folder: Path) -> bytes:
    """ONNX Runtime's dynamic int8 of an fp32 model: weights and activations with one scale a tensor."""
    source, target = folder / "fp32.onnx", folder / "dynamic.onnx"
    source.write_bytes(model)
    # What ONNX's shape inference does not know is what ONNX Runtime's own nodes give: floats.
    options = {"DefaultTensorType": TensorProto.FLOAT}
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, extra_options=options)
    return target.read_bytes()


def mixed(student: Student) -> QuantPlan:
    """Static but for the feed-forward matrices of full layers, which is what `mixed` found for real students."""
    scales = shared(calibrate(student, WORDS))
    last = f"layers.{student.encoder.depth - 1}."
    return QuantPlan({n: s for n, s in scales.items() if ".ffn_" not in n or n.startswith(last)})


def rows(student: Student, folder: Path) -> dict[str, Callable[[], bytes]]:
    """The model of each row by its name."""

    def planned(plan: QuantPlan) -> bytes:
        return to_onnx(replace(student, plan=plan.to_json()))

    return {
        BASELINE: lambda: dynamic(to_onnx(student), folder),
        "fp32": lambda: to_onnx(student),
        "dynamic, plain export": lambda: dynamic(export_plain(folder, student.task), folder),
        "per_token": lambda: planned(QuantPlan()),
        "static": lambda: planned(QuantPlan(shared(calibrate(student, WORDS)))),
        "mixed": lambda: planned(mixed(student)),
    }


def measure(layers: int, chosen: list[str], rounds: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint(Path(scratch), layers)
        makers = rows(Student.load(folder), folder)
        base = OnnxEngine(makers[BASELINE](), threads=1)
        for name in chosen:
            engine = OnnxEngine(makers[name](), threads=1)
            for batch, lengths in BATCHES.items():
                a, b = call(base, lengths), call(engine, lengths)
                ratio = compare(a, b, rounds, inner=max(1, 128 // sum(lengths)))
                found.append({"layers": layers, "row": name, "batch": batch, **ratio.to_json()})
            print(line(found[-len(BATCHES) :]), flush=True)
    return found


def line(records: Sequence[Mapping[str, Any]]) -> str:
    """The row of one scheme: a cell a batch."""
    ratios = [f"{r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in records]
    return "| " + " | ".join([str(records[0]["layers"]), records[0]["row"], *ratios]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of int8 schemes against ONNX Runtime's dynamic int8")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 3])
    names = ["fp32", "dynamic, plain export", "per_token", "static", "mixed"]
    parser.add_argument("--rows", nargs="+", default=names, choices=names)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record of the table")
    args = parser.parse_args()
    logging.disable()
    print(HEADER)
    found = [record for layers in args.layers for record in measure(layers, args.rows, args.rounds)]
    size = len(BATCHES)
    lines = [cells(line(found[start : start + size])) for start in range(0, len(found), size)]
    note = (
        "Random weights of MiniLM's sizes, one thread of ONNX Runtime: how many times as fast as its own dynamic int8 "
        f"of the same graph, by wall time, {args.rounds} rounds in turns; geometric means with 95 % t intervals."
    )
    Record("Schemes of int8 by their speed", cells(HEADER.splitlines()[0]), lines, note, found).write(args.json)
    print(json.dumps({"machine": machine(), "baseline": f"{BASELINE}, ONNX Runtime's of our graph", "ratios": found}))


if __name__ == "__main__":
    main()
