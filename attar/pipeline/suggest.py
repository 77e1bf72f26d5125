"""Which student fits: depth, width, heads and feed-forward neurons by a table of latencies measured on this machine.

A cell of the table is one kind of layer, timed as int8 in a network of one and of three of them, text in to answer out;
between and beyond, latency and size grow by what a layer costs. What is left is ranked by its matrix weights, the
deeper first among equals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from attar.compress.quantize.plan import QuantPlan
from attar.distill.encoder import Encoder, EncoderShape, LayerShape
from attar.distill.heads import HeadShape
from attar.distill.importers import import_base
from attar.distill.mapping import even
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.pipeline.progress import Console
from attar.pipeline.timing import timed
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model
from attar.runtime.tasks.classification import TextClassification

HEADS = (1.0, 0.5)
NEURONS = (1.0, 0.5, 0.25)
ROUNDS = 15
OTHER_FILES = 20_000
"""Bytes of manifest, model card and golden inputs."""


@dataclass(frozen=True)
class Wanted:
    """Limits: milliseconds of a single text of `tokens` tokens, and MB of the bundle."""

    latency_ms: float | None = None
    size_mb: float | None = None
    tokens: int = 16

    def __post_init__(self) -> None:
        if self.latency_ms is None and self.size_mb is None:
            raise SettingsError("say what the student must keep to: --latency-ms, --size-mb, or both")
        for name, value in (("latency-ms", self.latency_ms), ("size-mb", self.size_mb)):
            if value is not None and value <= 0:
                raise SettingsError(f"--{name} must be above 0, not {value:g}")

    def fits(self, plan: Plan) -> bool:
        return not (
            (self.latency_ms is not None and plan.latency_ms > self.latency_ms)
            or (self.size_mb is not None and plan.size_mb > self.size_mb)
        )


@dataclass(frozen=True)
class Plan:
    """A student's sizes, what is expected of it, and how many matrix weights its layers have."""

    layers: int
    width: int
    heads: int
    head_size: int
    ffn: int
    latency_ms: float
    size_mb: float
    weights: int


@dataclass(frozen=True)
class Cell:
    """One kind of layer: seconds and bytes of a network with one of them, and of each further one."""

    width: int
    layer: LayerShape
    first: float
    further: float
    size: int
    growth: float

    def plan(self, count: int) -> Plan:
        matrices = self.width * (4 * self.layer.heads * self.layer.head_size + 2 * self.layer.ffn)
        return Plan(
            count, self.width, self.layer.heads, self.layer.head_size, self.layer.ffn,
            round(1e3 * (self.first + (count - 1) * self.further), 3),
            round((self.size + (count - 1) * self.growth) / 1e6, 2), count * matrices,
        )  # fmt: skip


def suggest(folder: Path, name: str, wanted: Wanted, console: Console, threads: int | None = None) -> dict[str, Any]:
    """The fitting students of the encoder in a folder, the largest first; the best one is built and timed too.

    Raises `SettingsError` where none fits, with the least that can be had.
    """
    found = import_base(folder)
    if not 3 <= wanted.tokens <= found.encoder.shape.positions:
        raise SettingsError(f"--tokens must be between 3 and {found.encoder.shape.positions}, not {wanted.tokens}")
    bare = Student(found.encoder, found.tokenizer, TextClassification(("a", "b"), wanted.tokens), found.pad_id)
    console.line(f"timing {len(HEADS) * len(NEURONS) * len(widths(bare))} kinds of layers ...")
    cells = measure(bare, wanted.tokens, threads, console)
    plans = [cell.plan(count) for cell in cells for count in range(1, found.encoder.depth + 1)]
    fitting = sorted(filter(wanted.fits, plans), key=lambda p: (-p.weights, -p.layers, p.latency_ms))
    if not fitting:
        quick, small = min(p.latency_ms for p in plans), min(p.size_mb for p in plans)
        raise SettingsError(
            f"no student of {name} fits: the quickest takes {quick:.2f} ms, the smallest {small:.1f} MB, most of it "
            "words; trim the vocabulary (compress.vocabulary), use a static student (distill.students.static) or allow "
            "more"
        )
    best = fitting[0]
    (seconds,) = timed([answering(model_of(bare, shape_of(bare, best), threads), wanted.tokens)], ROUNDS)
    return {
        "model": name, "tokens": wanted.tokens, "limits": {"latency_ms": wanted.latency_ms, "size_mb": wanted.size_mb},
        "plans": [asdict(p) for p in fitting[:5]], "measured_ms": round(1e3 * seconds, 3),
        "steps": steps(name, best, found.encoder.shape),
    }  # fmt: skip


def widths(bare: Student) -> tuple[int, ...]:
    """The encoder's own width, and half of it where that is still a multiple of 64."""
    hidden = bare.encoder.shape.hidden
    return (hidden, hidden // 2) if hidden % 128 == 0 else (hidden,)


def measure(bare: Student, tokens: int, threads: int | None, console: Console) -> list[Cell]:
    """Every cell, timed in interleaved rounds."""
    own = bare.transformer.shape.layers[0]
    kinds = []
    for width, share, part in product(widths(bare), HEADS, NEURONS):
        scale = width / bare.encoder.shape.hidden
        heads = max(1, round(own.heads * scale * share))
        kinds.append((width, LayerShape(heads, own.head_size, max(8, round(own.ffn * scale * part)))))
    models, sizes = [], []
    for number, (width, layer) in enumerate(kinds):
        console.progress(number / len(kinds) / 2, f"{width} wide, {layer.heads} heads, {layer.ffn} neurons")
        for count in (1, 3):
            student = of_shape(bare, replace(bare.encoder.shape, hidden=width, layers=(layer,) * count))
            data = to_onnx(student)
            sizes.append(len(data) + len(bare.tokenizer) + OTHER_FILES)
            models.append(in_memory(student, threads=threads, model=data))
    console.progress(0.5, f"{ROUNDS} rounds of {len(models)} networks")
    times = timed([answering(model, tokens) for model in models], ROUNDS)
    return [
        Cell(width, layer, times[2 * i], max(0.0, times[2 * i + 1] - times[2 * i]) / 2, sizes[2 * i],
             (sizes[2 * i + 1] - sizes[2 * i]) / 2)
        for i, (width, layer) in enumerate(kinds)
    ]  # fmt: skip


def of_shape(bare: Student, shape: EncoderShape) -> Student:
    """An untrained int8 student: latency and size do not depend on the weights."""
    shape = replace(shape, heads=(HeadShape("logits", 2),))
    return replace(bare, encoder=Encoder(shape).eval(), plan=QuantPlan().to_json())


def shape_of(bare: Student, plan: Plan) -> EncoderShape:
    layer = LayerShape(plan.heads, plan.head_size, plan.ffn)
    shape: EncoderShape = replace(bare.encoder.shape, hidden=plan.width, layers=(layer,) * plan.layers)
    return shape


def model_of(bare: Student, shape: EncoderShape, threads: int | None) -> Model:
    return in_memory(of_shape(bare, shape), threads=threads)


def answering(model: Model, tokens: int) -> Callable[[], object]:
    """One answer to a single text of so many tokens."""
    text = " ".join(["a"] * (tokens - 2))
    return lambda: model.answer([text])


def steps(name: str, plan: Plan, shape: EncoderShape) -> str:
    """The steps of a recipe that make such a student."""
    own = shape.layers[0]
    chosen = list(even(plan.layers, len(shape.layers)))
    width = f"width = {plan.width}\n" if plan.width != shape.hidden else ""
    parts = [
        f'[[step]]\nuse = "distill.students.encoder"\nmodel = "{name}"\nlayers = {chosen}\n{width}',
        '[[step]]\nuse = "distill.distil"\n',
    ]
    shares: Mapping[str, float] = {"heads": plan.heads / own.heads, "ffn": plan.ffn / own.ffn}
    cut = {part: share for part, share in shares.items() if share < 1}
    parts += [f'[[step]]\nuse = "compress.prune.{part}"\nkeep = {share:.3g}\n' for part, share in cut.items()]
    if cut:
        parts.append('[[step]]\nuse = "distill.distil"\n')
    parts.append('[[step]]\nuse = "compress.quantize.int8"\n')
    return "\n".join(parts)


def text(record: Mapping[str, Any]) -> str:
    """For a terminal: the plans as a table, the best one's measured latency, and its steps."""
    lines = [f"{'layers':>6} {'width':>6} {'heads':>6} {'neurons':>8} {'ms':>8} {'MB':>7}"]
    for p in record["plans"]:
        sizes = f"{p['layers']:>6} {p['width']:>6} {p['heads']:>6} {p['ffn']:>8}"
        lines.append(f"{sizes} {p['latency_ms']:>8.2f} {p['size_mb']:>7.1f}")
    best = record["plans"][0]
    lines.append(
        f"\nthe first one, built and timed: {record['measured_ms']:.2f} ms (expected {best['latency_ms']:.2f}) "
        f"for single texts of {record['tokens']} tokens\n\n{record['steps']}"
    )
    return "\n".join(lines)
