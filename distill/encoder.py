"""Our own compact transformer encoder, in which every layer has its own sizes.

Post-norm as in BERT (Devlin et al. 2019). Every layer has its own number of heads, head size and FFN width, and any of
its matrices may be the product of two small ones, so that pruning, factorization, saving and export need no
framework's help. Where no head reads more than the first token, the last layer computes only that row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Head

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
class HeadShape:
    """One output: what it reads, and its size. `dense`: width of a hidden layer of its own (0: none).

    A head without `linear` gives the states that it reads as they are, scaled to length 1 where `unit` says so.
    """

    name: str
    outputs: int
    reads: str = "first"
    dense: int = 0
    activation: str = "tanh"
    linear: bool = True
    unit: bool = False


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of the whole network; `types` is how many token types it knows."""

    vocab: int
    hidden: int
    positions: int
    layers: tuple[LayerShape, ...]
    heads: tuple[HeadShape, ...]
    types: int = 1
    activation: str = "gelu"
    eps: float = 1e-12

    @property
    def first_only(self) -> bool:
        """Whether the last layer is needed for the first token alone."""
        return all(head.reads == "first" for head in self.heads)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> EncoderShape:
        layers = tuple(LayerShape(**layer) for layer in record["layers"])
        heads = tuple(HeadShape(**head) for head in record["heads"])
        return EncoderShape(**{**record, "layers": layers, "heads": heads})


def head_shape(head: Head, hidden: int, dense: int = 0, activation: str = "tanh") -> HeadShape:
    """The network's side of a task's head; a vector is what it reads, as it is."""
    if head.objective == "vector":
        return HeadShape(head.name, hidden, head.reads, linear=False, unit=head.unit)
    return HeadShape(head.name, head.outputs, head.reads, dense, activation)


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
    """heads: raw outputs by name, (B, C) or (B, T, C); hidden: after each layer (B, T, H), the last perhaps one row."""

    heads: dict[str, Tensor]
    hidden: tuple[Tensor, ...]


class OutputHead(nn.Module):
    """From the last states to one output."""

    def __init__(self, hidden: int, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        self.dense = nn.Linear(hidden, shape.dense) if shape.dense else nn.Identity()
        self.classifier = nn.Linear(shape.dense or hidden, shape.outputs) if shape.linear else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, H) or, where only the first token is read, (B, 1, H); mask (B, T) -> (B, C) or (B, T, C)."""
        found = pool(x, mask, self.shape.reads)
        if self.shape.dense:
            found = ACTIVATIONS[self.shape.activation](self.dense(found))
        result: Tensor = self.classifier(found).float()
        return nn.functional.normalize(result, dim=-1) if self.shape.unit else result


def pool(x: Tensor, mask: Tensor, reads: str) -> Tensor:
    """States (B, T, H) and mask (B, T) -> what a head reads: (B, H), or all of them."""
    if reads == "first":
        return x[:, 0]
    if reads == "tokens":
        return x
    weight = mask[:, :, None].to(x.dtype)
    if reads == "mean":
        return (x * weight).sum(1) / weight.sum(1).clamp_min(1e-9)
    return (x + (weight - 1) * 1e9).amax(1)


class Encoder(nn.Module):
    """Embeddings, layers and one or more output heads."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.types = nn.Embedding(shape.types, shape.hidden)
        self.embedding_norm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.layers = nn.ModuleList(Layer(shape.hidden, s, shape.activation, shape.eps) for s in shape.layers)
        self.heads = nn.ModuleDict({h.name: OutputHead(shape.hidden, h) for h in shape.heads})

    def forward(
        self, ids: Tensor, mask: Tensor, types: Tensor | None = None, masks: tuple[Masks, ...] | None = None
    ) -> Outputs:
        """Token ids, mask and token types (B, T; none: all 0), padding on the right."""
        if ids.shape[1] > self.shape.positions:
            raise ModelError(f"{ids.shape[1]} tokens, but the model has {self.shape.positions} positions")
        kinds = self.types.weight[0] if types is None else self.types(types.clamp_max(self.shape.types - 1))
        x = self.embedding_norm(self.words(ids) + self.positions.weight[: ids.shape[1]] + kinds)
        bias = (1.0 - mask[:, None, None, :].float()) * -1e4
        hidden = []
        for i, layer in enumerate(self.layers):
            first = self.shape.first_only and i == len(self.layers) - 1
            x = layer(x, bias, 1 if first else None, None if masks is None else masks[i])
            hidden.append(x)
        return Outputs({name: head(x, mask) for name, head in self.heads.items()}, tuple(hidden))

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def resized(encoder: Encoder, layers: tuple[LayerShape, ...]) -> Encoder:
    """An encoder of the same sizes but for its layers, holding copies of the embeddings and the head."""
    record = {**encoder.shape.__dict__, "layers": layers}
    result = Encoder(EncoderShape(**record))
    outer = {k: v for k, v in encoder.state_dict().items() if not k.startswith("layers.")}
    result.load_state_dict(outer, strict=False)
    return result
