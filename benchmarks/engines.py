"""Engines on one bundle: time against ONNX Runtime, bits that batches change, and memory over random requests.

    python benchmarks/engines.py BUNDLE                                       # fp32 of both, and OpenVINO's bf16
    python benchmarks/engines.py BUNDLE --memory 20000 --engine openvino      # resident memory of one engine

One thread, and seconds of the processor's, so that a busy machine tells the same; requests are of up to the bundle's
own length, seven in ten of one text, the others of 2 to 16.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np

import attar
from attar.runtime.bench.paired import compare
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import AttarError
from attar.runtime.model import Model

WORDS = ("the", "film", "was", "charming", "and", "gripping", "or", "dull", "with", "music", "last", "night")
SHAPES = ((1, 16), (1, 64), (8, 64))
OTHERS = (Choice("openvino"), Choice("openvino", precision="bf16"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--memory", type=int, metavar="N", help="requests to measure memory over")
    parser.add_argument("--seconds", type=float, default=200.0, help="of the processor's, after which --memory stops")
    parser.add_argument("--engine", default="onnx", help="of --memory")
    parser.add_argument("--texts", type=int, default=100, help="texts that are compared alone and in batches")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    if args.memory:
        memory(attar.load(args.bundle, engine=args.engine, threads=1), args.memory, args.seconds)
        return
    base = attar.load(args.bundle, threads=1)
    say(base, args.texts)
    for choice in OTHERS:
        try:
            model = attar.load(args.bundle, engine=choice.engine, precision=choice.precision, threads=1)
        except AttarError as error:
            print(f"{choice.words}: {error}", flush=True)
            continue
        say(model, args.texts)
        for rows, length in SHAPES:
            found = compare(
                lambda rows=rows, length=length: base.try_shape(rows, length),
                lambda rows=rows, length=length, model=model: model.try_shape(rows, length),
                args.rounds, inner=4, clock=time.process_time_ns,
            )  # fmt: skip
            print(
                f"  ({rows}, {length}): {found.ratio:.2f}x ONNX Runtime [{found.low:.2f}, {found.high:.2f}]", flush=True
            )


def say(model: Model, count: int) -> None:
    """The largest difference of raw outputs between a text alone and in a padded batch."""
    texts = [text for request in requests(model, random.Random(1), count) for text in request][:count]
    together = model.logits(texts)
    alone = np.concatenate([model.logits([text]) for text in texts])
    equal = float((together == alone).mean())
    print(f"{model.engine.name}: alone or in a batch {100 * equal:.1f} % of outputs have equal bits, the largest "
          f"difference is {np.abs(together - alone).max():.2g}", flush=True)  # fmt: skip


def requests(model: Model, rng: random.Random, count: int) -> list[list[str]]:
    longest = model.task.max_length
    sizes = [1 if rng.random() < 0.7 else rng.randrange(2, 17) for _ in range(count)]
    return [[" ".join(rng.choices(WORDS, k=rng.randrange(1, longest))) for _ in range(size)] for size in sizes]


def memory(model: Model, count: int, seconds: float) -> None:
    """Resident memory when loaded, behind warm-up, and after more and more requests."""
    print(f"{model.engine.name}: loaded {resident():.1f} MB", flush=True)
    model.warm_up(60.0)
    start, warm, rng = time.process_time(), resident(), random.Random(0)
    print(f"  warm {warm:.1f} MB", flush=True)
    for done in range(1, count + 1):
        model(requests(model, rng, 1)[0])
        late = time.process_time() - start > seconds
        if late or done == count or done in (100, 500, 1000, 2000, 5000, 10000):
            print(f"  {done} requests: {resident() - warm:+.1f} MB", flush=True)
        if late:
            break


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
