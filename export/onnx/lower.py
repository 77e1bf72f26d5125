"""Lowers an encoder and its quantization plan to ONNX.

The kernels are chosen for ONNX Runtime's CPU provider: MultiHeadAttention and Gelu, and for int8
MatMulIntegerToFloat (export/onnx/product.py). All but attention works on tokens alone (export/onnx/tokens.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.rows import rows_of
from attar.compress.quantize.smooth import readers
from attar.distill.encoder import Encoder, LayerShape, relative_buckets
from attar.distill.student import Student
from attar.export.onnx.graph import HALVES, MICROSOFT, Graph
from attar.export.onnx.heads import lower_head
from attar.export.onnx.product import Products
from attar.export.onnx.tokens import first_tokens, pack, token_places, unpack
from attar.export.onnx.words import lower_words

Array = NDArray[Any]

LAYOUT = (
    "Token ids to the outputs of every head, by a transformer encoder. What a tensor is called is the part of the "
    "network that computes it: layers.0.query, layers.0.attended (the norm behind attention), layers.0.result.\n"
    "From the embeddings on there is one row a token, padding left out; attention alone reads rows as long as the "
    "longest text (names that end in _rows), and its result (layers.0.context) is packed again (context_tokens)."
)
LAST = (
    "The last layer computes the first token of every text alone, which is all that the heads read; for attention it "
    "stands twice (query_twice)."
)
INT8 = (
    "Names that end in _u8 are activations in bytes by a scale of each row (_scale), those in _static by a constant "
    "one; 128 stands for 0, but 0 behind Relu and 32 behind Gelu. Matrices (.int8) have a scale a column (.scale)."
)


def documentation(first_only: bool, int8: bool) -> str:
    """What someone who looks at the graph wants to know of it."""
    return "\n".join([LAYOUT, *([LAST] if first_only else []), *([INT8] if int8 else [])])


def lower(student: Student) -> Any:
    """The model of a transformer student; for pairs it reads `token_type_ids` too."""
    task = student.task
    return _Lowering(student.transformer, QuantPlan.from_json(student.plan), task.max_length, task.pairs).run()


class _Lowering:
    def __init__(self, encoder: Encoder, plan: QuantPlan | None, max_length: int, pairs: bool) -> None:
        self.graph = Graph()
        self.plan = plan
        self.shape = encoder.shape
        self.max_length = max_length
        self.typed = pairs and encoder.shape.types > 1
        self.state: dict[str, Array] = {k: v.detach().numpy() for k, v in encoder.state_dict().items()}
        self.divisors: dict[str, Array] = {}
        self.smoothed: dict[str, str] = {}
        if plan is not None:
            self.smooth(encoder, plan)
        self.products = Products(self.graph, self.state, plan)
        self.relatives: dict[bytes, str] = {}

    def run(self) -> Any:
        g = self.graph
        x = self.embed()
        mask = g.op("Cast", ["attention_mask"], "key_mask", to=6)
        for i, layer in enumerate(self.shape.layers):
            x = self.layer(x, mask, i, layer, last=self.shape.first_only and i == len(self.shape.layers) - 1)
        first = self.shape.first_only
        x = x if first else unpack(g, x, "states")
        outputs = {h.name: lower_head(g, self.state, h, x, first) for h in self.shape.heads}
        if self.plan is not None and self.plan.kind in HALVES:
            g.halve(self.plan.kind)
        return g.model(outputs, documentation(first, bool(self.products.quantized)), typed=self.typed)

    def smooth(self, encoder: Encoder, plan: QuantPlan) -> None:
        """What the plan divides the outputs of norms by, multiplied into the matrices that read them."""
        self.divisors = {norm: np.array(values, dtype=np.float32) for norm, values in plan.smooth.items()}
        for norm, names in readers(encoder).items():
            for name in names if norm in self.divisors else ():
                self.state[f"{name}.weight"] = self.state[f"{name}.weight"] * self.divisors[norm]

    def embed(self) -> str:
        g = self.graph
        found = lower_words(g, self.state, self.plan, ids=pack(g, "input_ids", "tokens"))
        kinds = self.state["types.weight"]
        table = self.state["positions.weight"][: self.max_length] + kinds[0]
        parts = [found, g.op("Gather", [g.weight("positions.weight", table), token_places(g)], "positions")]
        if self.typed:
            # What another type than 0 adds: type 0 is in the positions already.
            types = pack(g, "token_type_ids", "token_types")
            parts.append(g.op("Gather", [g.weight("types.weight", kinds - kinds[0]), types], "types_added"))
        return self.norm(parts, "embedding_norm", "embeddings")

    def norm(self, inputs: list[str], module: str, name: str) -> str:
        """LayerNorm of the sum of the inputs.

        `Sum`, not `Add`: the engine would fuse Add and LayerNormalization into SkipLayerNormalization, whose CPU
        kernel is slower than the two apart (benchmarks/NOTES.md).
        """
        g = self.graph
        weights = {part: self.state[f"{module}.{part}"] for part in ("weight", "bias")}
        scale, bias = (g.weight(f"{module}.{part}", value) for part, value in weights.items())
        total = g.op("Sum", inputs, f"{name}_sum")
        if module in self.divisors:
            # The residual reads the norm as it is; only matrices read it divided.
            parts = [g.weight(f"{module}.{p}_smooth", v / self.divisors[module]) for p, v in weights.items()]
            self.smoothed[name] = g.op(
                "LayerNormalization", [total, *parts], f"{name}_smooth", axis=-1, epsilon=self.shape.eps
            )
        return g.op("LayerNormalization", [total, scale, bias], name, axis=-1, epsilon=self.shape.eps)

    def layer(self, x: str, mask: str, index: int, shape: LayerShape, last: bool) -> str:
        g, base = self.graph, f"layers.{index}"
        head, whole = x, self.smoothed.get(x, x)
        first = whole
        if last:
            bounds = [g.weight(n, np.array([v])) for n, v in (("zero", 0), ("one", 1), ("axis_1", 1))]
            head = first_tokens(g, x, f"{base}.first")
            first = head if whole == x else first_tokens(g, whole, f"{base}.first_smooth")
        inputs, biases = [], []
        for source, name in ((first, "query"), (whole, "key"), (whole, "value")):
            alone = last and name == "query"
            product, bias = self.products(source, f"{base}.{name}", alone)
            inputs.append(product if alone else unpack(g, product, f"{base}.{name}_rows"))
            biases.append(np.zeros(shape.heads * shape.head_size, np.float32) if bias is None else self.state[bias])
        together = g.weight(f"{base}.attention_bias", np.concatenate(biases))
        if last:
            # Twice the same row: for a single one the engine takes a kernel whose sums depend on the padded length.
            inputs[0] = g.op("Concat", [inputs[0], inputs[0]], f"{base}.query_twice", axis=1)
        relative = self.relative(f"{base}.relative", last) if self.shape.relative else []
        context = g.op(
            "MultiHeadAttention", [*inputs, together, mask, *relative], f"{base}.context",
            domain=MICROSOFT, num_heads=shape.heads, mask_filter_value=-1e4,
        )  # fmt: skip
        if last:
            context = g.op("Slice", [context, *bounds], f"{base}.context_first")
        else:
            context = pack(g, context, f"{base}.context_tokens")
        attended = self.terms(context, f"{base}.output", last)
        y = self.norm([*attended, head], f"{base}.attention_norm", f"{base}.attended")
        wide = self.terms(self.smoothed.get(y, y), f"{base}.ffn_in", last)
        inner = wide[0] if len(wide) == 1 else g.op("Add", wide, f"{base}.ffn_biased")
        name = f"{base}.activation"
        inner = g.op("Relu", [inner], name) if self.shape.activation == "relu" else g.gelu(inner, name)
        self.products.rows[inner] = rows_of(f"{base}.ffn_out", self.shape.activation)
        return self.norm([*self.terms(inner, f"{base}.ffn_out", last), y], f"{base}.ffn_norm", f"{base}.result")

    def relative(self, module: str, last: bool) -> list[str]:
        """What distances add to the scores of attention (1, heads, T, T); of the last layer's row twice (.., 2, T)."""
        g = self.graph
        table = self.state[f"{module}.weight"]
        # As imported all layers have the same biases: they are looked up once.
        key = table.tobytes() + bytes([last])
        if key not in self.relatives:
            places = self.first_places() if last else self.places()
            # Whole rows of the table, then transposed: copying single numbers takes seven times as long.
            found = g.op("Gather", [g.weight(f"{module}.weight", table), places], f"{module}.rows", axis=0)
            self.relatives[key] = g.op("Transpose", [found], f"{module}.bias", perm=[0, 3, 1, 2])
        return [self.relatives[key]]

    def places(self) -> str:
        return lower_places(self.graph, self.max_length, self.shape.relative)

    def first_places(self) -> str:
        """The first row of `places`, twice since the query has it twice: (1, 2, T)."""
        g = self.graph
        return g.once("Gather", [self.places(), g.weight("row_twice", np.array([0, 0]))], "places_twice", axis=1)

    def terms(self, x: str, module: str, first: bool) -> list[str]:
        """The product, and the bias where it is still to be added."""
        product, bias = self.products(x, module, first)
        return [product] if bias is None else [product, self.graph.weight(bias, self.state[bias])]


def lower_places(graph: Graph, max_length: int, buckets: int) -> str:
    """The bucket of the distance between any two tokens (1, T, T); kept as bytes, of which there are many."""
    table = relative_buckets(max_length, buckets)[None].numpy().astype(np.uint8)
    starts, axes = (graph.weight(n, np.array(v)) for n, v in (("corner", [0, 0]), ("axes_1_2", [1, 2])))
    length = graph.once("Shape", ["input_ids"], "length", start=1, end=2)
    ends = graph.once("Concat", [length, length], "lengths", axis=0)
    part = graph.once("Slice", [graph.weight("buckets", table), starts, ends, axes], "buckets_used")
    return graph.once("Cast", [part], "places", to=7)
