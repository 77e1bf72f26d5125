"""Lowers the products of an encoder's matrices, in fp32 or as its quantization plan says.

Weights that are only stored in integers become fp32 when the engine folds constants: MatMulNBits, which reads them as
they are, sums a row alone in another order than in a batch (benchmarks/NOTES.md).

int8 is MatMulIntegerToFloat on activations in u8. Each row of activations has its own scale (or a constant one), so no
text's answer depends on the other texts of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.rows import EITHER, Rows
from attar.export.onnx.graph import HALVES, MICROSOFT, Graph
from attar.export.onnx.words import quantize_columns

Array = NDArray[Any]


def quantize_blocks(weight: Array, block: int, bits: int) -> tuple[Array, Array]:
    """Symmetric integers, a scale for each block along a column: (in, out) -> (in, out) int8, (blocks, out) scales."""
    top = 2 ** (bits - 1) - 1
    starts = np.arange(0, len(weight), block)
    scales = (np.maximum(np.maximum.reduceat(np.abs(weight), starts), 1e-12) / top).astype(np.float32)
    spread = scales[np.arange(len(weight)) // block]
    return np.clip(np.rint(weight / spread), -top, top).astype(np.int8), scales


class Products:
    """Writes products into a graph; a tensor that several matrices read is quantized once.

    Attributes:
        rows: how tensors are quantized by rows that do not hold values of either sign.
    """

    def __init__(self, graph: Graph, state: Mapping[str, Array], plan: QuantPlan | None) -> None:
        self.graph = graph
        self.state = state
        self.plan = plan
        self.rows: dict[str, Rows] = {}
        self.quantized: dict[str, tuple[str, str]] = {}

    def __call__(self, x: str, module: str, first: bool = False) -> tuple[str, str | None]:
        """The product of a matrix, or of two where it is factorized, and the name of the bias that the caller adds.

        Whoever reads the product can add the bias for nothing: attention, a residual sum, a fused activation.
        `first`: x holds the first tokens alone (B, 1, K).
        """
        if f"{module}.down.weight" in self.state:
            x, _ = self.product(x, f"{module}.down", f"{module}.inner", first)
            return self.product(x, f"{module}.up", module, first)
        return self.product(x, module, module, first)

    def product(self, x: str, module: str, name: str, first: bool) -> tuple[str, str | None]:
        g = self.graph
        weight = self.state[f"{module}.weight"].T
        bias = f"{module}.bias" if f"{module}.bias" in self.state else None
        matrix = module.removesuffix(".down").removesuffix(".up")
        if self.plan is None or matrix in self.plan.full or self.plan.kind in HALVES:
            return g.op("MatMul", [x, g.weight(f"{module}.weight", weight)], name), bias
        if self.plan.kind == "weights":
            return g.op("MatMul", [x, self.stored(module, weight, self.plan)], name), bias
        static = self.plan.scales.get(module)
        values, scale = quantize_columns(weight, self.plan.bits)
        packed, columns = g.weight(f"{module}.int8", values), g.weight(f"{module}.scale", scale)
        if static is not None:
            quantized, row_scale = self.quantize_static(x, static)
            inputs = [quantized, packed, row_scale, columns, self.zero(EITHER.middle)]
            if bias is not None:
                shift = np.array(self.plan.shifts.get(module, 0), dtype=np.float32)
                inputs += ["", g.weight(f"{module}.shifted_bias", self.state[bias] + shift)]
            return g.op("MatMulIntegerToFloat", inputs, name, domain=MICROSOFT), None
        quantized, row_scale = self.quantize_rows(x, weight.shape[0], first)
        one = g.weight("scale_1", np.array(1, dtype=np.float32))
        inputs = [quantized, packed, one, columns, self.zero(self.rows.get(x, EITHER).middle)]
        found = g.op("MatMulIntegerToFloat", inputs, f"{name}_product", domain=MICROSOFT)
        return g.op("Mul", [found, row_scale], name), bias

    def stored(self, module: str, weight: Array, plan: QuantPlan) -> str:
        """Integers with a scale for each block of a column, and the nodes that make (in, out) floats of them."""
        g = self.graph
        values, scales = quantize_blocks(weight, plan.block, plan.bits)
        places = g.weight(f"places_{len(weight)}", np.arange(len(weight)) // plan.block)
        packed = values.astype(ml_dtypes.int4) if plan.bits == 4 else values
        whole = g.op("Cast", [g.weight(f"{module}.int{plan.bits}", packed)], f"{module}.whole", to=1)
        spread = g.op("Gather", [g.weight(f"{module}.scales", scales), places], f"{module}.spread", axis=0)
        return g.op("Mul", [whole, spread], f"{module}.weight")

    def zero(self, value: int) -> str:
        return self.graph.weight(f"zero_{value}", np.array(value, dtype=np.uint8))

    def quantize_static(self, x: str, scale: float) -> tuple[str, str]:
        """u8 activations by a constant scale; shared by every matrix that reads `x` with the same scale."""
        g, key = self.graph, f"{x}@{scale}"
        if key not in self.quantized:
            # Matrices may read the same values by scales of their own, or by row: each has its name.
            others = sum(name.startswith(f"{x}@") for name in self.quantized)
            name = f"{x}_static{others or ''}"
            constant = g.weight(f"{name}_scale", np.array(scale, dtype=np.float32))
            self.quantized[key] = g.op("QuantizeLinear", [x, constant, self.zero(EITHER.middle)], name), constant
        return self.quantized[key]

    def quantize_rows(self, x: str, width: int, first: bool) -> tuple[str, str]:
        """u8 activations (B, T, K) and the scale of each row (B, T, 1).

        QuantizeLinear in blocks as long as a row scales and rounds in one pass. A row of zeros has scale 0: whatever
        bytes it becomes, its product is multiplied by 0.
        """
        g = self.graph
        if x in self.quantized:
            return self.quantized[x]
        rows = self.rows.get(x, EITHER)
        source = g.op("Abs", [x], f"{x}_abs") if rows == EITHER else x
        axis = g.weight("last_axis", np.array([-1]))
        top = g.op("ReduceMax", [source, axis], f"{x}_max", keepdims=1)
        step = g.weight(f"step_{rows.top}", np.array(1 / rows.top, dtype=np.float32))
        scale = g.op("Mul", [top, step], f"{x}_scale")
        if rows.floor:
            floor = g.weight("floor", np.array(rows.floor, dtype=np.float32))
            scale = g.op("Max", [scale, floor], f"{x}_scale_safe")
        zeros = f"zeros_{rows.middle}_{'first' if first else 'all'}"
        like = g.once("Shape", [scale], f"{zeros}_shape")
        value = numpy_helper.from_array(np.array([rows.middle], dtype=np.uint8))
        inputs = [x, scale, g.once("ConstantOfShape", [like], zeros, value=value)]
        self.quantized[x] = g.op("QuantizeLinear", inputs, f"{x}_u8", axis=-1, block_size=width), scale
        return self.quantized[x]
