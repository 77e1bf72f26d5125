"""Our own compact transformer encoder, in which every layer has its own sizes.

Post-norm as in BERT (Devlin et al. 2019). Every layer has its own number of heads, head size and FFN width, and any of
its matrices may be the product of two small ones, so that pruning, factorization, saving and export need no
framework's help. Where no head reads more than the first token, the last layer computes only that row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attar.distill.heads import ACTIVATIONS, HeadShape, OutputHead, Outputs
from attar.distill.network import Network
from attar.runtime.errors import ModelError

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
    """Sizes of the whole network; `types` is how many token types it knows, `relative` how many buckets of distances
    have a bias of their own in attention (0: no distance has), `word_rank` the width of factorized word embeddings (0:
    they are whole)."""

    kind: ClassVar[str] = "encoder"
    vocab: int
    hidden: int
    positions: int
    layers: tuple[LayerShape, ...]
    heads: tuple[HeadShape, ...]
    types: int = 1
    activation: str = "gelu"
    eps: float = 1e-12
    relative: int = 0
    word_rank: int = 0

    @property
    def first_only(self) -> bool:
        """Whether the last layer is needed for the first token alone."""
        return all(head.reads == "first" for head in self.heads)

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        # As before there were any: the digest of a student without them stays what it was.
        return {k: v for k, v in record.items() if v or k not in ("relative", "word_rank")}


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


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by a residual and a LayerNorm."""

    def __init__(self, hidden: int, shape: LayerShape, activation: str, eps: float, relative: int = 0) -> None:
        super().__init__()
        self.shape = shape
        # A table of its own in every layer, since layers lose different heads.
        self.relative = nn.Embedding(relative, shape.heads) if relative else None
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

    def forward(self, x: Tensor, bias: Tensor, rows: int | None = None, places: Tensor | None = None) -> Tensor:
        """x (B, T, H), bias (B, 1, 1, T) added to attention scores, buckets `places` (T, T) -> (B, rows or T, H)."""
        if self.relative is not None and places is not None:
            bias = bias + self.relative(places[:rows]).permute(2, 0, 1)
        h, d = self.shape.heads, self.shape.head_size
        head = x if rows is None else x[:, :rows]

        def split(t: Tensor) -> Tensor:
            return torch.transpose(t.unflatten(-1, (h, d)), 1, 2)

        q, k, v = split(self.query(head)), split(self.key(x)), split(self.value(x))
        # Eager on purpose: the fused kernel's backward pass on a CPU takes as long as all matrix products together.
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(d) + bias
        context = torch.softmax(scores, dim=-1).to(v.dtype) @ v
        y = self.attention_norm(head + self.output(context.transpose(1, 2).flatten(-2)))
        result: Tensor = self.ffn_norm(y + self.ffn_out(self._activation(self.ffn_in(y))))
        return result


class Encoder(Network):
    """Embeddings, layers and one or more output heads."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.word_rank or shape.hidden)
        self.words_up = nn.Linear(shape.word_rank, shape.hidden, bias=False) if shape.word_rank else nn.Identity()
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.types = nn.Embedding(shape.types, shape.hidden)
        self.embedding_norm = nn.LayerNorm(shape.hidden, eps=shape.eps)
        self.layers = nn.ModuleList(
            Layer(shape.hidden, s, shape.activation, shape.eps, shape.relative) for s in shape.layers
        )
        self.heads = nn.ModuleDict({h.name: OutputHead(shape.hidden, h) for h in shape.heads})

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        """Token ids, mask and token types (B, T; none: all 0), padding on the right."""
        if ids.shape[1] > self.shape.positions:
            raise ModelError(f"{ids.shape[1]} tokens, but the model has {self.shape.positions} positions")
        kinds = self.types.weight[0] if types is None else self.types(types.clamp_max(self.shape.types - 1))
        x = self.embedding_norm(self.words_up(self.words(ids)) + self.positions.weight[: ids.shape[1]] + kinds)
        bias = (1.0 - mask[:, None, None, :].float()) * -1e4
        relative = self.shape.relative
        places = relative_buckets(ids.shape[1], relative).to(ids.device) if relative else None
        hidden = []
        for i, layer in enumerate(self.layers):
            first = self.shape.first_only and i == len(self.layers) - 1
            x = layer(x, bias, 1 if first else None, places)
            hidden.append(x)
        return Outputs({name: head(x, mask) for name, head in self.heads.items()}, tuple(hidden))

    @property
    def depth(self) -> int:
        return len(self.shape.layers)


def relative_buckets(length: int, buckets: int, max_distance: int = 128) -> Tensor:
    """The bucket of the distance from each query to each key: (T, T) int64, rows are queries.

    As in T5 (Raffel et al. 2020) and MPNet (Song et al. 2020): half of the buckets is for keys behind the query. In
    each half the short distances have a bucket each; longer ones share, on a logarithmic scale up to `max_distance`.
    """
    place = torch.arange(length)
    behind = place - place[:, None]
    distance, half, exact = behind.abs(), buckets // 2, buckets // 4
    # float32 and this order of operations, as in transformers: a distance of 64 lies on the edge of two buckets.
    scaled = torch.log(distance.clamp_min(exact).float() / exact) / math.log(max_distance / exact) * (half - exact)
    shared = (exact + scaled.long()).clamp_max(half - 1)
    return torch.where(distance < exact, distance, shared) + (behind > 0).long() * half


def from_json(record: Mapping[str, Any]) -> Encoder:
    """An untrained encoder of these sizes."""
    return Encoder(EncoderShape(**{**record, "layers": tuple(LayerShape(**layer) for layer in record["layers"])}))


def resized(encoder: Encoder, layers: tuple[LayerShape, ...]) -> Encoder:
    """An encoder of the same sizes but for its layers, holding copies of the embeddings and the head."""
    record = {**encoder.shape.__dict__, "layers": layers}
    result = Encoder(EncoderShape(**record))
    outer = {k: v for k, v in encoder.state_dict().items() if not k.startswith("layers.")}
    result.load_state_dict(outer, strict=False)
    return result
