"""The share of the machine's int8 peak that an encoder reaches: operations a second over those of a bare product.

OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/peak.py                    # MiniLM-L6 sizes, batch 32, one thread
python benchmarks/peak.py --bundle build/sentiment/bundle                   # and text to answer against its two parts

The peak is the fastest of a few bare MatMulInteger nodes (u8 by s8) in ONNX Runtime, which take turns with the
encoder within every round. Operations are two for each multiplication and addition of the linear layers alone:
attention's own products, norms and the rest count as time and not as work. All lengths are without padding.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from random_models import call, checkpoint

from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.static import calibrate, shared
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.runtime.bench.paired import Call, Ratio, compare
from attar.runtime.bench.texts import TEXTS
from attar.runtime.cpu import machine
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.model import Model, load
from attar.runtime.tokenizer import pad

GEMMS = ((1024, 384, 1536), (1024, 1536, 384), (1024, 1024, 1024))
"""Rows, inputs and outputs of the bare products."""
BATCH = 32
LENGTHS = (16, 32, 64, 128)
WORDS = ("w1 w2 w3", "w4 w5")


def bare(rows: int, inputs: int, outputs: int) -> Call:
    """One product of random bytes, its session made and warm."""
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.integers(-127, 128, (inputs, outputs)).astype(np.int8), "weight")
    node = helper.make_node("MatMulInteger", ["x", "weight"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inputs])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [rows, outputs])
    graph = helper.make_graph([node], "product", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"x": rng.integers(0, 256, (rows, inputs)).astype(np.uint8)}
    return lambda: session.run(None, given)


def operations(student: Student, batch: int, length: int) -> int:
    """Of the linear layers, by hand: the last layer computes queries, output and feed-forward of two rows a text."""
    whole, two = batch * length, batch * 2
    found = 0
    for number, layer in enumerate(student.encoder.layers):
        rows = two if number == student.encoder.depth - 1 else whole
        for name, product in layer.named_modules():
            if hasattr(product, "weight") and product.weight.dim() == 2:
                found += 2 * product.weight.numel() * (whole if name in ("key", "value") else rows)
    return found


def shares(layers: int, rounds: int) -> list[dict[str, object]]:
    """Of static int8 and int8 with a scale a token, at each length."""
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        student = Student.load(checkpoint(Path(scratch), layers))
    products = {shape: bare(*shape) for shape in GEMMS}
    plans = {"static": QuantPlan(shared(calibrate(student, WORDS))), "per token": QuantPlan()}
    for name, plan in plans.items():
        engine = OnnxEngine(to_onnx(replace(student, plan=plan.to_json())), threads=1)
        for length in LENGTHS:
            run, work = call(engine, [length] * BATCH), operations(student, BATCH, length)
            least = min((share(run, work, *p, rounds) for p in products.items()), key=lambda r: r.ratio)
            print(f"| {name} | {BATCH} x {length} | {100 * least.ratio:.0f} % {interval(least)} |", flush=True)
            found.append({"scheme": name, "batch": BATCH, "length": length, **least.to_json()})
    return found


def share(run: Call, work: int, shape: tuple[int, int, int], product: Call, rounds: int) -> Ratio:
    """The encoder's operations a second over those of the bare product."""
    times = compare(product, run, rounds)
    scale = work / (2 * shape[0] * shape[1] * shape[2])
    return replace(times, ratio=times.ratio * scale, low=times.low * scale, high=times.high * scale)


def interval(ratio: Ratio) -> str:
    return f"[{100 * ratio.low:.0f}, {100 * ratio.high:.0f}]"


def path(model: Model, rounds: int) -> Ratio:
    """Time of `model(texts)` over that of the tokenizer and the session alone, which get the same batches ready."""
    texts = list(TEXTS)
    encoded = model.task.encode(model.tokenizer, texts)
    batches = list(model._batches([len(row) for row in encoded.ids], 1))
    ready = [pad([encoded.ids[i] for i in chosen], model.tokenizer.pad_id) for chosen in batches]
    backend = model.tokenizer._backend

    def parts() -> None:
        backend.encode_batch_fast(texts)
        for ids, mask in ready:
            model.engine.run(ids, mask)

    return compare(parts, lambda: model(texts), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description="share of the machine's int8 peak")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--bundle", type=Path, help="a bundle of single texts, for text to answer against its parts")
    args = parser.parse_args()
    logging.disable()
    record: dict[str, object] = {"machine": machine(), "shares": shares(args.layers, args.rounds)}
    if args.bundle:
        ratio = path(load(args.bundle, threads=1), args.rounds)
        bounds = f"[{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"
        print(f"text to answer over tokenizer and session: {1 / ratio.ratio:.2f} {bounds}")
        record["path"] = ratio.to_json()
    print(json.dumps(record))


if __name__ == "__main__":
    main()
