"""Lowers a ModernBERT (distill/modern.py) and its quantization plan, by the products and kernels of the encoder's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.distill.modern import Modern, angles
from attar.distill.student import Student
from attar.export.onnx.graph import HALVES, MICROSOFT, Graph
from attar.export.onnx.heads import lower_head
from attar.export.onnx.product import Products
from attar.export.onnx.words import lower_words

FAR = -1e4
"""What is added to the score of a key that is not to be seen."""


def lower(student: Student) -> Any:
    """The model of a ModernBERT student."""
    network = student.encoder
    assert isinstance(network, Modern)
    return _Lowering(network, QuantPlan.from_json(student.plan), student.task.max_length).run()


class _Lowering:
    def __init__(self, network: Modern, plan: QuantPlan | None, max_length: int) -> None:
        self.graph, self.plan, self.shape, self.max_length = Graph(), plan, network.shape, max_length
        self.state: dict[str, NDArray[Any]] = {k: v.detach().numpy() for k, v in network.state_dict().items()}
        self.products = Products(self.graph, self.state, plan)

    def run(self) -> Any:
        g = self.graph
        x = self.norm(lower_words(g, self.state, self.plan), "embedding_norm", "embeddings")
        g.op("Cast", ["attention_mask"], "key_mask", to=6)
        for i in range(len(self.shape.windows)):
            x = self.layer(x, i)
        x = self.norm(x, "final_norm")
        outputs = {h.name: lower_head(g, self.state, h, x, False, self.shape.eps) for h in self.shape.heads}
        if self.plan is not None and self.plan.kind in HALVES:
            g.halve(self.plan.kind)
        return g.model(outputs, "Token ids to the outputs of every head.")

    def norm(self, x: str, module: str, name: str = "") -> str:
        """LayerNorm without bias; what it gives is called as the module unless `name` says otherwise."""
        scale = self.graph.weight(f"{module}.weight", self.state[f"{module}.weight"])
        return self.graph.op("LayerNormalization", [x, scale], name or module, axis=-1, epsilon=self.shape.eps)

    def layer(self, x: str, index: int) -> str:
        g, base = self.graph, f"layers.{index}"
        y = self.norm(x, f"{base}.before_attention") if index else x
        parts = [self.products(y, f"{base}.{name}")[0] for name in ("query", "key", "value")]
        parts[:2] = [self.turned(part, index) for part in parts[:2]]
        context = g.op(
            "MultiHeadAttention", [*parts, "", "key_mask", *self.window(self.shape.windows[index])], f"{base}.context",
            domain=MICROSOFT, num_heads=self.shape.attention_heads, mask_filter_value=FAR,
        )  # fmt: skip
        # `Sum`, not `Add`: see `norm` of the encoder's lowering.
        x = g.op("Sum", [x, self.products(context, f"{base}.output")[0]], f"{base}.attended")
        y = self.norm(x, f"{base}.before_ffn")
        inner = g.op("Gelu", [self.products(y, f"{base}.ffn_in")[0]], f"{base}.activation", domain=MICROSOFT)
        gated = g.op("Mul", [inner, self.products(y, f"{base}.ffn_gate")[0]], f"{base}.gated")
        return g.op("Sum", [x, self.products(gated, f"{base}.ffn_out")[0]], f"{base}.result")

    def turned(self, x: str, index: int) -> str:
        """Queries or keys (B, T, H) turned by the angles of their positions."""
        g, base = self.graph, self.shape.bases[index]
        table = angles(self.max_length, self.shape.head_size, base)
        cos = g.weight(f"cos_{base:g}", table.cos().numpy())
        sin = g.weight(f"sin_{base:g}", table.sin().numpy())
        start = g.weight("zero", np.array([0]))
        return g.op("RotaryEmbedding", [x, start, cos, sin], f"{x}_turned", domain=MICROSOFT)

    def window(self, width: int) -> list[str]:
        """What is added to the scores of keys beyond `width` tokens (1, 1, T, T); nothing where all are seen."""
        if not width:
            return []
        g, number = self.graph, f"window_{width}"
        length = g.once("Shape", ["input_ids"], "length", start=1, end=2)
        ends = [g.weight(f"{name}_place", np.array(value)) for name, value in (("first", 0), ("next", 1))]
        last = g.once("Squeeze", [length], "length_number")
        places = g.once("Range", [ends[0], last, ends[1]], "places")
        column = g.once("Unsqueeze", [places, g.weight("axis_1", np.array([1]))], "places_of_queries")
        distance = g.once("Abs", [g.once("Sub", [column, places], "offsets")], "distances")
        beyond = g.once("Greater", [distance, g.weight(number, np.array(width))], f"{number}_beyond")
        values = [g.weight(name, np.array(value, np.float32)) for name, value in (("far", FAR), ("nothing", 0))]
        table = g.once("Where", [beyond, *values], f"{number}_table")
        return [g.once("Unsqueeze", [table, g.weight("axes_0_1", np.array([0, 1]))], f"{number}_bias")]
