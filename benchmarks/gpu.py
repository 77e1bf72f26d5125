"""What a GPU makes of an encoder: ONNX Runtime's CUDA provider and TensorRT against PyTorch in half precision.

python benchmarks/gpu.py [--layers 6] [--seconds 1]

An encoder of the sizes of MiniLM (384 wide) with random weights, on rows of random tokens: right where all agree with
PyTorch in fp32 on the CPU. Times are medians from arrays in host memory to arrays in host memory. What cannot run here
is skipped and named with its reason, so that the script comes to its end on any machine. Never run on a GPU so far.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.distill.encoder import MATRICES, Encoder, EncoderShape, LayerShape
from attar.distill.heads import head_shape
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.export.onnx.standard import LEVELS, PRECISIONS, Typing, lower
from attar.runtime.cache import cache_folder
from attar.runtime.cpu import machine
from attar.runtime.engines import plans
from attar.runtime.engines.cuda import Cuda
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.engines.plans import Key
from attar.runtime.engines.profiles import Profile, digest
from attar.runtime.engines.tensorrt import TensorRTEngine
from attar.runtime.errors import AttarError
from attar.runtime.tasks.classification import TextClassification

SHAPES = ((1, 16), (1, 128), (8, 128), (32, 64))
HIDDEN, VOCAB, LENGTH = 384, 30522, 128
TOP = 8.0
"""In place of calibration: what int8 and fp8 take for the largest activation. Their times are real, errors are not."""
TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1}
Arrays = tuple[NDArray[np.int64], NDArray[np.int64]]
Run = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


def student(layers: int) -> Student:
    """An encoder with random weights; nothing here reads its tokenizer."""
    torch.manual_seed(0)
    task = TextClassification(("no", "yes"), LENGTH)
    heads = tuple(head_shape(head, HIDDEN, HIDDEN) for head in task.heads)
    shapes = (LayerShape(12, 32, 4 * HIDDEN),) * layers
    encoder = Encoder(EncoderShape(VOCAB, HIDDEN, LENGTH, shapes, heads)).eval()
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if "norm" not in name:
                value.normal_(0.0, 0.05)
    return Student(encoder, b"", task)


def rows(batch: int, length: int) -> Arrays:
    """Random tokens; every second row is padded by a quarter."""
    ids = np.random.default_rng(0).integers(1, VOCAB, (batch, length))
    mask = np.ones_like(ids)
    mask[1::2, length - length // 4 :] = 0
    return ids * mask, mask


def in_torch(encoder: Encoder, device: str, dtype: torch.dtype, how: str) -> Run:
    """PyTorch: `eager`, with a `CUDA graph` for each shape, or by `torch.compile`."""
    model: Any = copy.deepcopy(encoder).to(device, dtype)

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = next(iter(model(ids, mask).heads.values()))
        return found

    compiled = torch.compile(forward, mode="reduce-overhead") if how == "torch.compile" else forward
    graphs: dict[tuple[int, ...], Callable[..., Tensor]] = {}

    @torch.inference_mode()
    def run(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        inputs = [torch.from_numpy(values).to(device) for values in (ids, mask)]
        call = compiled
        if how == "CUDA graph":
            if ids.shape not in graphs:
                graphs[ids.shape] = captured(forward, inputs)
            call = graphs[ids.shape]
        found: NDArray[np.float32] = call(*inputs).float().cpu().numpy()
        return found

    return run


def captured(forward: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[..., Tensor]:
    """The calls of one shape as a CUDA graph, which is replayed on copies of the inputs."""
    held = [values.clone() for values in inputs]
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch gives it no types
    with torch.cuda.stream(aside):
        for _ in range(3):
            forward(*held)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward(*held)

    def replay(*given: Tensor) -> Tensor:
        for mine, theirs in zip(held, given, strict=True):
            mine.copy_(theirs)
        graph.replay()
        return output

    return replay


def in_onnx(model: bytes) -> Run:
    engine = OnnxEngine(model, device="cuda")
    return lambda ids, mask: next(iter(engine.run(ids, mask).values()))


def in_tensorrt(flavour: str, model: bytes, precision: str) -> Run:
    """An engine that is built here, for batches of every shape that is timed."""
    trt, cuda = importlib.import_module(flavour), Cuda()
    profiles = (Profile(1, LENGTH, max(b for b, _ in SHAPES), SHAPES[2]),)
    driver = None if plans.capabilities(trt) else cuda.driver
    key = Key(flavour, trt.__version__, cuda.capability, driver, precision, digest(profiles))
    engine = TensorRTEngine(
        trt, cuda, plans.build(trt, model, key, profiles, cache_folder() / "engines"), profiles, key
    )
    return lambda ids, mask: next(iter(engine.run(ids, mask).values()))


def typed(given: Student, precision: str) -> bytes:
    names = [f"layers.{i}.{m}" for i in range(given.encoder.depth) for m in MATRICES]
    tops = dict.fromkeys(names, TOP) if precision in LEVELS else {}
    kind = next(p for p in PRECISIONS if p == precision)
    return bytes(lower(given, Typing(kind, tops)).SerializeToString(deterministic=True))


def systems(given: Student) -> Iterator[tuple[str, str, Callable[[], Run]]]:
    """Name, precision, and what starts it; the last may refuse."""
    encoder = given.transformer
    yield "PyTorch CPU eager", "fp32", lambda: in_torch(encoder, "cpu", torch.float32, "eager")
    for dtype, precision in ((torch.float32, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        for how in ("eager", "CUDA graph", "torch.compile"):
            yield f"PyTorch GPU, {how}", precision, lambda d=dtype, h=how: in_torch(encoder, "cuda", d, h)
    yield "ONNX Runtime CUDA, our graph", "fp32", lambda: in_onnx(to_onnx(given))
    yield "ONNX Runtime CUDA, standard operators", "fp16", lambda: in_onnx(typed(given, "fp16"))
    for flavour in plans.FLAVOURS:
        for precision in PRECISIONS:
            yield flavour, precision, lambda f=flavour, p=precision: in_tensorrt(f, typed(given, p), p)


def measure(run: Run, ids: NDArray[np.int64], mask: NDArray[np.int64], seconds: float) -> float:
    """Median milliseconds of a call, after calls that warm up."""
    for _ in range(5):
        run(ids, mask)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run(ids, mask)
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def trial(run: Run, precision: str, expected: Run, seconds: float) -> list[dict[str, Any]]:
    """Error and milliseconds at every shape."""
    found = []
    for batch, length in SHAPES:
        ids, mask = rows(batch, length)
        wanted = expected(ids, mask)
        error = float(np.abs(run(ids, mask) - wanted).max() / max(1.0, float(np.abs(wanted).max())))
        ms = measure(run, ids, mask, seconds)
        right = error <= TOLERANCE[precision] if precision in TOLERANCE else None
        found.append({"batch": batch, "length": length, "ms": round(ms, 3), "error": error, "right": right})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each shape of each system (default: 1)")
    chosen = parser.parse_args()
    given = student(chosen.layers)
    expected = in_torch(given.transformer, "cpu", torch.float32, "eager")
    record: dict[str, Any] = {"machine": machine(), "gpu": None, "systems": {}, "skipped": {}}
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
    for name, precision, start in systems(given):
        label = f"{name}, {precision}"
        try:
            shapes = trial(start(), precision, expected, chosen.seconds)
        except (AttarError, ImportError, OSError, RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            record["skipped"][label] = reason
            print(f"skipped  {label}: {reason}")
            continue
        record["systems"][label] = shapes
        cells = [
            f"({s['batch']}, {s['length']}) {s['ms']:.2f} ms, {1000 * s['batch'] / s['ms']:.0f} rows/s" for s in shapes
        ]
        worst = max(s["error"] for s in shapes)
        wrong = " WRONG" if any(s["right"] is False for s in shapes) else ""
        print(f"ran      {label}: {'; '.join(cells)}; largest error {worst:.1e}{wrong}")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
