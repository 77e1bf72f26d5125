"""Lowers an encoder to the operators of ONNX itself, every tensor of the type that it is to be computed in.

For engines that know no com.microsoft and take precision from the graph: TensorRT's strongly typed networks. Matrix
products run in the precision; norms, softmax, residual sums and heads in fp32. For int8 and fp8 the matrices of layers
stand between QuantizeLinear and DequantizeLinear, with fp16 around them: a scale per output channel of the weights, a
constant one per tensor for activations, so that no answer depends on the other texts of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from attar.distill.encoder import EncoderShape, LayerShape
from attar.distill.student import Student
from attar.export.onnx.graph import Graph
from attar.export.onnx.heads import lower_head
from attar.export.onnx.lower import lower_places
from attar.export.onnx.words import lower_words
from attar.runtime.errors import SettingsError

Array = NDArray[Any]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
FLOATS: Mapping[str, tuple[Any, int]] = {
    "fp32": (np.float32, TensorProto.FLOAT),
    "fp16": (np.float16, TensorProto.FLOAT16),
    "bf16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}
LEVELS: Mapping[str, float] = {"int8": 127, "fp8": 448}
"""The largest number of the type, which a scale maps the largest magnitude to."""
LEAST = 2.0**-14
"""The smallest scale: below it fp16 loses digits."""


@dataclass(frozen=True)
class Typing:
    """What matrix products are computed in.

    `tops`: of int8 and fp8, the largest magnitude that each matrix reads (`layers.0.query`); a matrix that is not named
    stays in fp16.
    """

    precision: Precision = "fp32"
    tops: Mapping[str, float] = field(default_factory=dict)

    @property
    def around(self) -> str:
        """The floats of matrix products."""
        return "fp16" if self.precision in LEVELS else self.precision


def lower(student: Student, typing: Typing) -> Any:
    """The model of a transformer student; its inputs and outputs are those of `to_onnx`."""
    if typing.precision in LEVELS and not typing.tops:
        raise SettingsError(f"{typing.precision} needs the ranges of activations: calibrate them on texts")
    return _Lowering(student, typing).run()


def quantized(weight: Array, precision: str) -> tuple[Array, Array]:
    """int8 or fp8 per output channel, scales as fp16 holds them: (in, out) -> (in, out), (out,)."""
    scale = np.maximum(np.abs(weight).max(axis=0) / LEVELS[precision], LEAST).astype(np.float16)
    levels = weight / scale.astype(np.float32)
    top = LEVELS[precision]
    if precision == "int8":
        return np.clip(np.rint(levels), -top, top).astype(np.int8), scale
    return np.clip(levels, -top, top).astype(ml_dtypes.float8_e4m3fn), scale


class _Lowering:
    def __init__(self, student: Student, typing: Typing) -> None:
        encoder, task = student.transformer, student.task
        self.graph = Graph(standard=True)
        self.typing = typing
        self.shape: EncoderShape = encoder.shape
        self.max_length = task.max_length
        self.typed = task.pairs and encoder.shape.types > 1
        self.state: dict[str, Array] = {k: v.detach().numpy() for k, v in encoder.state_dict().items()}
        self.kind, self.code = FLOATS[typing.around]

    def run(self) -> Any:
        g, shape = self.graph, self.shape
        x = self.embed()
        bias = self.mask()
        for i, layer in enumerate(shape.layers):
            x = self.layer(x, bias, i, layer, last=shape.first_only and i == len(shape.layers) - 1)
        outputs = {h.name: lower_head(g, self.state, h, x, shape.first_only) for h in shape.heads}
        return g.model(outputs, "Token ids to the outputs of every head.", typed=self.typed)

    def embed(self) -> str:
        """The normed sum of words, positions and types (B, T, H) in fp32; tables are stored in the precision."""
        g = self.graph
        stored = {k: v.astype(self.kind) for k, v in self.state.items() if k.startswith("words")}
        parts = [self.full(lower_words(g, stored, None))]
        kinds = self.state["types.weight"]
        table = self.state["positions.weight"][: self.max_length] + kinds[0]
        length = g.op("Shape", ["input_ids"], "length", start=1, end=2)
        zero = g.weight("zero", np.array([0]))
        parts.append(g.op("Slice", [g.weight("positions.weight", table), zero, length, zero], "positions"))
        if self.typed:
            parts.append(g.op("Gather", [g.weight("types.weight", kinds - kinds[0]), "token_type_ids"], "types_added"))
        return self.norm(parts, "embedding_norm", "embeddings")

    def mask(self) -> str:
        """What is added to the scores of attention (B, 1, 1, T): -1e4 where there is no token."""
        g = self.graph
        there = g.op("Cast", ["attention_mask"], "there", to=TensorProto.FLOAT)
        missing = g.op("Sub", [g.weight("unit", np.array(1, np.float32)), there], "missing")
        low = g.op("Mul", [missing, g.weight("low", np.array(-1e4, np.float32))], "mask_flat")
        return g.op("Unsqueeze", [low, g.weight("axes_heads", np.array([1, 2]))], "mask_bias")

    def norm(self, inputs: list[str], module: str, name: str) -> str:
        """LayerNorm, in fp32, of the sum of the inputs."""
        g = self.graph
        total = inputs[0]
        for i, other in enumerate(inputs[1:], 1):
            total = g.op("Add", [total, other], f"{name}_sum{i}")
        parts = [g.weight(f"{module}.{part}", self.state[f"{module}.{part}"]) for part in ("weight", "bias")]
        return g.op("LayerNormalization", [total, *parts], name, axis=-1, epsilon=self.shape.eps)

    def layer(self, x: str, bias: str, index: int, shape: LayerShape, last: bool) -> str:
        """x (B, T, H) and what it gives are fp32; the last layer perhaps computes the first token alone."""
        g, base = self.graph, f"layers.{index}"
        head = x
        if last:
            bounds = [g.weight(n, np.array([v])) for n, v in (("zero", 0), ("one", 1), ("axis_1", 1))]
            head = g.op("Slice", [x, *bounds], f"{base}.first")
        context = self.attention(self.narrow(head), self.narrow(x), bias, index, shape, last)
        attended = self.full(self.product(context, f"{base}.output"))
        y = self.norm([attended, head], f"{base}.attention_norm", f"{base}.attended")
        inner = self.product(self.narrow(y), f"{base}.ffn_in")
        name = f"{base}.activation"
        inner = g.op("Relu", [inner], name) if self.shape.activation == "relu" else g.gelu(inner, name)
        result = self.full(self.product(inner, f"{base}.ffn_out"))
        return self.norm([result, y], f"{base}.ffn_norm", f"{base}.result")

    def attention(self, first: str, whole: str, bias: str, index: int, shape: LayerShape, last: bool) -> str:
        """What the queries `first` (B, 1 or T, H) read of the keys of `whole` (B, T, H): (B, 1 or T, heads * size)."""
        g, base = self.graph, f"layers.{index}"
        sizes = g.weight(f"heads_{shape.heads}", np.array([0, 0, shape.heads, shape.head_size]))

        def split(source: str, name: str, perm: list[int], scale: float = 1.0) -> str:
            product = self.product(source, f"{base}.{name}", scale)
            return g.op(
                "Transpose", [g.op("Reshape", [product, sizes], f"{base}.{name}_split")], f"{base}.{name}_heads",
                perm=perm,
            )  # fmt: skip

        # The scale of scores lies in the query: no intermediate is larger than it must be, which fp16 could not hold.
        query = split(first, "query", [0, 2, 1, 3], 1 / math.sqrt(shape.head_size))
        key, value = split(whole, "key", [0, 2, 3, 1]), split(whole, "value", [0, 2, 1, 3])
        scores = g.op("Add", [self.full(g.op("MatMul", [query, key], f"{base}.raw")), bias], f"{base}.masked")
        if self.shape.relative:
            scores = g.op("Add", [scores, self.distances(f"{base}.relative", last)], f"{base}.placed")
        share = self.narrow(g.op("Softmax", [scores], f"{base}.share", axis=-1))
        mixed = g.op("MatMul", [share, value], f"{base}.mixed")
        back = g.op("Transpose", [mixed], f"{base}.back", perm=[0, 2, 1, 3])
        width = g.weight(f"width_{shape.heads * shape.head_size}", np.array([0, 0, shape.heads * shape.head_size]))
        return g.op("Reshape", [back, width], f"{base}.context")

    def distances(self, module: str, last: bool) -> str:
        """What distances add to the scores of attention (1, heads, T, T), or of the first row (1, heads, 1, T)."""
        g = self.graph
        places = lower_places(g, self.max_length, self.shape.relative)
        if last:
            places = g.once("Gather", [places, g.weight("zero", np.array([0]))], "places_first", axis=1)
        table = g.weight(f"{module}.weight", self.state[f"{module}.weight"])
        found = g.op("Gather", [table, places], f"{module}.rows", axis=0)
        return g.op("Transpose", [found], f"{module}.bias", perm=[0, 3, 1, 2])

    def product(self, x: str, module: str, scale: float = 1.0) -> str:
        """A matrix, or two where it is factorized, and the bias, all times `scale`: (B, T, in) -> (B, T, out)."""
        g = self.graph
        last = f"{module}.up" if f"{module}.up.weight" in self.state else module
        if last != module:
            x = self.matmul(x, f"{module}.down", f"{module}.inner")
        product = self.matmul(x, last, f"{module}.product", scale)
        bias = (self.state[f"{last}.bias"] * np.float32(scale)).astype(self.kind)
        return g.op("Add", [product, g.weight(f"{last}.bias", bias)], module)

    def matmul(self, x: str, module: str, name: str, scale: float = 1.0) -> str:
        g, precision = self.graph, self.typing.precision
        weight = self.state[f"{module}.weight"].T * np.float32(scale)
        top = self.typing.tops.get(module)
        if precision not in LEVELS or top is None:
            return g.op("MatMul", [x, g.weight(f"{module}.weight", weight.astype(self.kind))], name)
        values, columns = quantized(weight, precision)
        stored = [g.weight(f"{module}.{precision}", values), g.weight(f"{module}.scale", columns)]
        whole = g.op("DequantizeLinear", stored, f"{module}.weight", axis=1)
        step = np.array(max(top / LEVELS[precision], LEAST), np.float16)
        # Query, key and value read one tensor by one scale: it is quantized once.
        rounded = f"{x}_{step:.4e}"
        zero = np.array(0, values.dtype)
        constants = [g.weight(f"step_{step:.4e}", step), g.weight(f"zero_{precision}", zero)]
        g.once("QuantizeLinear", [x, *constants], f"{rounded}_{precision}")
        g.once("DequantizeLinear", [f"{rounded}_{precision}", *constants], rounded)
        return g.op("MatMul", [rounded, whole], name)

    def narrow(self, x: str) -> str:
        """The tensor in the floats of matrix products."""
        if self.typing.around == "fp32":
            return x
        return self.graph.once("Cast", [x], f"{x}_{self.typing.around}", to=self.code)

    def full(self, x: str) -> str:
        """The tensor in fp32."""
        if self.typing.around == "fp32":
            return x
        return self.graph.once("Cast", [x], f"{x}_fp32", to=TensorProto.FLOAT)
