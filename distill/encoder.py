"""Our own compact transformer encoder, in which every layer has its own sizes.

Post-norm as in BERT (Devlin et al. 2019). Every layer has its own number of heads, head size and FFN width, and any of
its matrices may be the product of two small ones, so that pruning, factorization, saving and export need no
framework's help. The classification head reads the first token only, so the last layer computes only that row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attar.runtime.errors import ModelError

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
}
MATRICES = ("query", "key", "value", "output", "ffn_in", "ffn_out")


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one layer; `ranks` maps a matrix (of `MATRICES`) to its rank where it is factorized."""

    heads: int
    head_size: int
    ffn: int
    ranks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of the whole network. `head` is the width of the head's dense layer (0: none); `labels` its outputs."""

    vocab: int
    hidden: int
    positions: int
    layers: tuple[LayerShape, ...]
    labels: int
    head: int
    activation: str = "gelu"
    head_activation: str = "tanh"
    eps: float = 1e-12

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> EncoderShape:
        layers = tuple(LayerShape(**layer) for layer in record["layers"])
        return EncoderShape(**{**record, "layers": layers})


class LowRank(nn.Module):
    """A linear map as the product of two: (.., in) -> (.., rank) -> (.., out)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.up(self.down(x))
        return result


def _linear(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    return nn.Linear(inputs, outputs) if rank is None else LowRank(inputs, outputs, rank)


class Masks(NamedTuple):
    """Multipliers of one layer's heads (heads,) and FFN neurons (ffn,), whose gradients measure importance."""

    heads: Tensor
    ffn: Tensor


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by a residual and a LayerNorm."""

    def __init__(self, hidden: int, shape: LayerShape, activation: str, eps: float) -> None:
        super().__init__()
        self.shape = shape
        width, ranks = shape.heads * shape.head_size, shape.ranks
        self.query = _linear(hidden, width, ranks.get("query"))
        self.key = _linear(hidden, width, ranks.get("key"))
        self.value = _linear(hidden, width, ranks.get("value"))
        self.output = _linear(width, hidden, ranks.get("output"))
        self.attention_norm = nn.LayerNorm(hidden, eps=eps)
        self.ffn_in = _linear(hidden, shape.ffn, ranks.get("ffn_in"))
        self.ffn_out = _linear(shape.ffn, hidden, ranks.get("ffn_out"))
        self.ffn_norm = nn.LayerNorm(hidden, eps=eps)
        self._activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor, bias: Tensor, rows: int | None = None, masks: Masks | None = None) -> Tensor:
        """x (B, T, H), bias (B, 1, 1, T) added to attention scores -> (B, rows or T, H)."""
        h, d = self.shape.heads, self.shape.head_size
        head = x if rows is None else x[:, :rows]

        def split(t: Tensor) -> Tensor:
            return torch.transpose(t.unflatten(-1, (h, d)), 1, 2)

        q, k, v = split(self.query(head)), split(self.key(x)), split(self.value(x))
        # Eager on purpose: the fused kernel's backward pass on a CPU takes as long as all matrix products together.
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(d) + bias
        context = torch.softmax(scores, dim=-1).to(v.dtype) @ v
        if masks is not None:
            context = context * masks.heads[:, None, None]
        y = self.attention_norm(head + self.output(context.transpose(1, 2).flatten(-2)))
        inner = self._activation(self.ffn_in(y))
        if masks is not None:
            inner = inner * masks.ffn
        result: Tensor = self.ffn_norm(y + self.ffn_out(inner))
        return result


class Outputs(NamedTuple):
    """logits (B, C); hidden: after each layer (B, T, H), the last one (B, 1, H)."""

    logits: Tensor
    hidden: tuple[Tensor, ...]


class Encoder(nn.Module):
    """Embeddings, layers and a classification head on the first token."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.embedding_norm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.layers = nn.ModuleList(Layer(shape.hidden, s, shape.activation, shape.eps) for s in shape.layers)
        self.dense = nn.Linear(shape.hidden, shape.head) if shape.head else nn.Identity()
        self.classifier = nn.Linear(shape.head or shape.hidden, shape.labels)

    def forward(self, ids: Tensor, mask: Tensor, masks: tuple[Masks, ...] | None = None) -> Outputs:
        """Token ids and mask (B, T), padding on the right."""
        if ids.shape[1] > self.shape.positions:
            raise ModelError(f"{ids.shape[1]} tokens, but the model has {self.shape.positions} positions")
        x = self.embedding_norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        bias = (1.0 - mask[:, None, None, :].float()) * -1e4
        hidden = []
        for i, layer in enumerate(self.layers):
            last = i == len(self.layers) - 1
            x = layer(x, bias, 1 if last else None, None if masks is None else masks[i])
            hidden.append(x)
        first = x[:, 0]
        if self.shape.head:
            first = ACTIVATIONS[self.shape.head_activation](self.dense(first))
        return Outputs(self.classifier(first).float(), tuple(hidden))

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def resized(encoder: Encoder, layers: tuple[LayerShape, ...]) -> Encoder:
    """An encoder of the same sizes but for its layers, holding copies of the embeddings and the head."""
    record = {**encoder.shape.__dict__, "layers": layers}
    result = Encoder(EncoderShape(**record))
    outer = {k: v for k, v in encoder.state_dict().items() if not k.startswith("layers.")}
    result.load_state_dict(outer, strict=False)
    return result
