"""Predicted against measured latency of pruned shapes, and whether what is cut away pays; needs no download.

The table of `compress.prune.latency` is measured on a random network of MiniLM's width, then networks of other shapes,
most of them at sizes between those of the table, are timed; all in turns, in the same rounds. For each: milliseconds
predicted and measured, the error, the share of the FLOPs left and the speed-up over what the FLOPs promise.

On a machine that does other work too, `--cpu-time` counts what the processor gave to the one thread that computes: what
a quiet machine would take, but for the caches.

python benchmarks/pruning.py [--cpu-time] [--int8] [--layers 6] [--batch 8] [--tokens 32] [--levels 8]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from tokenizers import Tokenizer, models

from attar.compress.prune.table import bare, counts, measured
from attar.distill.encoder import Encoder, EncoderShape, LayerShape
from attar.distill.heads import HeadShape
from attar.distill.student import Student
from attar.pipeline.timing import milliseconds
from attar.runtime.tasks.classification import TextClassification

FULL = LayerShape(12, 32, 1536)
BAR = 10.0
"""Per cent that a prediction may be off."""


def random_student(layers: int) -> Student:
    """Of MiniLM's width, untrained."""
    shape = EncoderShape(1000, 384, 128, (FULL,) * layers, (HeadShape("logits", 2),))
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).to_str().encode()
    return Student(Encoder(shape).eval(), words, TextClassification(("a", "b"), 128))


def shapes(layers: int) -> dict[str, list[LayerShape]]:
    """Shapes by name: even ones, then uneven ones as a search finds them."""

    def every(heads: int, ffn: int) -> list[LayerShape]:
        return [LayerShape(heads, 32, ffn)] * layers

    def spread(heads: Sequence[int], ffn: Sequence[int]) -> list[LayerShape]:
        return [LayerShape(heads[i % len(heads)], 32, ffn[i % len(ffn)]) for i in range(layers)]

    return {
        **{f"all {h} heads, {n} neurons": every(h, n) for h, n in ((9, 1536), (6, 1536), (3, 1536), (12, 1024))},
        **{f"all {h} heads, {n} neurons": every(h, n) for h, n in ((12, 768), (12, 256), (8, 960), (6, 768))},
        **{f"all {h} heads, {n} neurons": every(h, n) for h, n in ((5, 416), (3, 384), (1, 32))},
        "heads fall, neurons full": spread((12, 9, 6, 4, 2, 1), (1536,)),
        "neurons fall, heads full": spread((12,), (1536, 1152, 800, 512, 224, 32)),
        "both fall": spread((12, 9, 6, 4, 2, 1), (1536, 1152, 800, 512, 224, 32)),
        "both rise": spread((1, 2, 5, 7, 10, 12), (64, 320, 640, 896, 1248, 1536)),
        "crossed": spread((2, 11), (1408, 160)),
    }


def flops(layers: Sequence[LayerShape], first_only: bool, tokens: int, hidden: int = 384) -> float:
    """Multiply-adds of a row in the layers; the last computes the first token alone where no head reads more."""
    total = 0
    for number, shape in enumerate(layers, 1):
        rows = 1 if first_only and number == len(layers) else tokens
        width = shape.heads * shape.head_size
        total += 2 * hidden * width * (rows + tokens) + 2 * rows * tokens * width + 2 * rows * hidden * shape.ffn
    return float(total)


def run(args: argparse.Namespace) -> list[dict[str, float | str]]:
    """A record for each shape."""
    layers, tokens, levels = args.layers, args.tokens, args.levels
    full, cases = random_student(layers), shapes(layers)
    timer, threads = (time.thread_time, 1) if args.cpu_time else (time.perf_counter, None)
    found: list[float] = []

    def clock(students: Sequence[Student]) -> list[float]:
        others = [bare(full, case) for case in cases.values()]
        found[:] = milliseconds([*students, *others], args.batch, tokens, args.int8, threads, timer)
        return found[: len(students)]

    table = measured(full, {"heads": counts(12, levels, 1), "ffn": counts(1536, levels, 32)}, clock)
    first_only, records = full.transformer.shape.first_only, []
    whole = flops((FULL,) * layers, first_only, tokens)
    for (name, case), ms in zip(cases.items(), found[-len(cases) :], strict=True):
        predicted, ratio = table.predicted(case), whole / flops(case, first_only, tokens)
        records.append(
            {
                "shape": name,
                "predicted_ms": round(predicted, 3),
                "measured_ms": round(ms, 3),
                "error_percent": round(100 * (predicted / ms - 1), 1),
                "flops_left": round(1 / ratio, 3),
                "speedup": round(found[0] / ms, 2),
                "of_flop_ratio": round(found[0] / ms / ratio, 2),
            }
        )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--levels", type=int, default=8, help="sizes of a block in the table")
    parser.add_argument("--cpu-time", action="store_true", help="count the time of one thread, not that of the clock")
    parser.add_argument("--int8", action="store_true", help="time int8 networks")
    args = parser.parse_args()
    records = run(args)
    print(f"{'shape':28} {'predicted':>10} {'measured':>9} {'error %':>8} {'FLOPs':>6} {'speedup':>8} {'of FLOPs':>9}")
    for r in records:
        print(
            f"{r['shape']:28} {r['predicted_ms']:>10.3f} {r['measured_ms']:>9.3f} {r['error_percent']:>8.1f} "
            f"{r['flops_left']:>6.2f} {r['speedup']:>8.2f} {r['of_flop_ratio']:>9.2f}"
        )
    errors = [abs(float(r["error_percent"])) for r in records]
    within = sum(e <= BAR for e in errors)
    print(f"\n{within} of {len(errors)} shapes within {BAR:g} %, the worst off by {max(errors):.1f} %")
    settings = {**vars(args), "within_bar": within, "worst_percent": max(errors)}
    print(json.dumps({**settings, "shapes": records}))


if __name__ == "__main__":
    main()
