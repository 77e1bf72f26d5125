"""ModernBERT (Warner et al. 2024) as a network of ours: equal layers, rotary positions, local and global attention.

Not a form of `Encoder`: it normalises before a block instead of behind the residual, multiplies two products in its
feed-forward part (GeGLU, Shazeer 2020), turns queries and keys by their positions (RoPE, Su et al. 2021), has no
biases, and its first layer has no norm. All that cuts, narrows or smooths an `Encoder` rests on the opposite of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attar.distill.heads import ACTIVATIONS, HeadShape, OutputHead, Outputs, head_shape, pool
from attar.distill.network import Network
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Task

NAMES = {"attn_norm": "before_attention", "attn.Wo": "output", "mlp_norm": "before_ffn", "mlp.Wo": "ffn_out"}
"""Weights of a layer that ModernBERT calls otherwise and keeps in the same form."""
FUSED = {"attn.Wqkv": ("query", "key", "value"), "mlp.Wi": ("ffn_in", "ffn_gate")}
"""Matrices that ModernBERT keeps one upon the other."""


@dataclass(frozen=True)
class ModernShape:
    """Sizes of the network. For each layer `windows` has how many tokens away a token sees (0: all), and `bases` the
    base of its rotary angles."""

    kind: ClassVar[str] = "modern"
    vocab: int
    hidden: int
    positions: int
    attention_heads: int
    ffn: int
    windows: tuple[int, ...]
    bases: tuple[float, ...]
    heads: tuple[HeadShape, ...]
    eps: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.hidden // self.attention_heads

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


class ModernLayer(nn.Module):
    """Self-attention and feed-forward, each behind a norm and added to what came in."""

    def __init__(self, shape: ModernShape, index: int) -> None:
        super().__init__()
        self.heads, self.head_size = shape.attention_heads, shape.head_size
        hidden, norm = shape.hidden, nn.LayerNorm(shape.hidden, shape.eps, bias=False)
        self.before_attention = norm if index else nn.Identity()  # the embeddings are normalised already
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        self.before_ffn = nn.LayerNorm(hidden, shape.eps, bias=False)
        self.ffn_in, self.ffn_gate = (nn.Linear(hidden, shape.ffn, bias=False) for _ in range(2))
        self.ffn_out = nn.Linear(shape.ffn, hidden, bias=False)

    def forward(self, x: Tensor, bias: Tensor, angles: Tensor) -> Tensor:
        """x (B, T, H), bias (B, 1, T or 1, T) added to attention scores, angles (T, head size / 2) -> (B, T, H)."""
        y = self.before_attention(x)
        q, k, v = (
            part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = (turned(q, angles) @ turned(k, angles).transpose(-1, -2)).float() / math.sqrt(self.head_size) + bias
        context = torch.softmax(scores, dim=-1).to(v.dtype) @ v
        x = x + self.output(context.transpose(1, 2).flatten(-2))
        y = self.before_ffn(x)
        result: Tensor = x + self.ffn_out(nn.functional.gelu(self.ffn_in(y)) * self.ffn_gate(y))
        return result


class NormedHead(OutputHead):
    """A head with a hidden layer and a norm behind it."""

    def __init__(self, hidden: int, shape: HeadShape, eps: float) -> None:
        super().__init__(hidden, shape)
        self.norm = nn.LayerNorm(shape.dense, eps, bias=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, T, H), mask (B, T) -> (B, C) or (B, T, C)."""
        inner = ACTIVATIONS[self.shape.activation](self.dense(pool(x, mask, self.shape.reads)))
        result: Tensor = self.classifier(self.norm(inner)).float()
        return result


class Modern(Network):
    """Embeddings, layers, a last norm, and output heads."""

    def __init__(self, shape: ModernShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.hidden)
        self.embedding_norm = nn.LayerNorm(shape.hidden, shape.eps, bias=False)
        self.layers = nn.ModuleList(ModernLayer(shape, i) for i in range(len(shape.windows)))
        self.final_norm = nn.LayerNorm(shape.hidden, shape.eps, bias=False)
        self.heads = nn.ModuleDict({
            h.name: NormedHead(shape.hidden, h, shape.eps) if h.dense else OutputHead(shape.hidden, h)
            for h in shape.heads
        })  # fmt: skip

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        """Token ids and mask (B, T), padding on the right; token types have no meaning here."""
        shape, length = self.shape, ids.shape[1]
        if length > shape.positions:
            raise ModelError(f"{length} tokens, but the model has {shape.positions} positions")
        x, hidden = self.embedding_norm(self.words(ids)), []
        padded = (1.0 - mask[:, None, None, :].float()) * -1e4
        for layer, window, base in zip(self.layers, shape.windows, shape.bases, strict=True):
            bias = padded + far(length, window).to(ids.device) if window else padded
            x = layer(x, bias, angles(length, shape.head_size, base).to(ids.device))
            hidden.append(x)
        hidden[-1] = x = self.final_norm(x)
        return Outputs({name: head(x, mask) for name, head in self.heads.items()}, tuple(hidden))

    @property
    def depth(self) -> int:
        return len(self.layers)


def angles(length: int, size: int, base: float) -> Tensor:
    """By how much each pair of numbers of a head is turned at each position: (T, size / 2)."""
    frequencies = 1.0 / (base ** (torch.arange(0, size, 2, dtype=torch.float32) / size))
    return torch.arange(length, dtype=torch.float32)[:, None] * frequencies


def turned(x: Tensor, by: Tensor) -> Tensor:
    """Heads x (B, heads, T, D), number i with number i + D / 2 turned by the angles (T, D / 2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = by.cos(), by.sin()
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def far(length: int, window: int) -> Tensor:
    """-1e4 where a key is more than `window` tokens away from the query, else 0: (T, T)."""
    place = torch.arange(length)
    return ((place[:, None] - place).abs() > window) * -1e4


def from_json(record: Mapping[str, Any]) -> Modern:
    """An untrained network of these sizes."""
    return Modern(ModernShape(**{**record, "windows": tuple(record["windows"]), "bases": tuple(record["bases"])}))


def imported(config: Mapping[str, Any], weights: Mapping[str, Tensor], task: Task) -> Modern:
    """The network of a ModernBERT checkpoint with the task's heads; `ModelError` for a form that is not supported."""
    prefix = "" if "embeddings.tok_embeddings.weight" in weights else "model."

    def get(name: str) -> Tensor:
        if name not in weights:
            raise ModelError(f"the checkpoint lacks the weight {name!r}; it may be truncated")
        return weights[name].float()

    check(config)
    shape = _shape(config, weights, task)
    state = {
        "words.weight": get(f"{prefix}embeddings.tok_embeddings.weight"),
        "embedding_norm.weight": get(f"{prefix}embeddings.norm.weight"),
        "final_norm.weight": get(f"{prefix}final_norm.weight"),
    }
    for i in range(len(shape.windows)):
        for theirs, ours in NAMES.items():
            if i or ours != "before_attention":
                state[f"layers.{i}.{ours}.weight"] = get(f"{prefix}layers.{i}.{theirs}.weight")
        for theirs, names in FUSED.items():
            parts = get(f"{prefix}layers.{i}.{theirs}.weight").chunk(len(names))
            state |= {f"layers.{i}.{ours}.weight": part for ours, part in zip(names, parts, strict=True)}
    for head in shape.heads:
        ours, last = f"heads.{head.name}", "classifier" if head.dense else head.name
        if head.linear and f"{last}.weight" not in weights:
            raise ModelError(f"no head {last!r} among the weights: fine-tune it first (attar run does)")
        if head.linear:
            state |= {f"{ours}.classifier.{part}": get(f"{last}.{part}") for part in ("weight", "bias")}
        if head.dense:
            state |= {f"{ours}.dense.weight": get("head.dense.weight"), f"{ours}.norm.weight": get("head.norm.weight")}
            state[f"{ours}.dense.bias"] = torch.zeros(head.dense)
    network = Modern(shape)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # sizes that do not agree, such as labels against rows of the head
        raise ModelError(f"weights and config.json do not agree: {str(error).splitlines()[-1].strip()}") from error
    return network.eval()


def check(config: Mapping[str, Any]) -> None:
    """`ModelError` for a setting of ModernBERT's that no published checkpoint uses, and that is not supported here."""
    for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"):
        if config.get(name):
            raise ModelError(f"config.json sets {name}, which is not supported; known: none of the biases")
    for name in ("hidden_activation", "classifier_activation"):
        if config.get(name, "gelu") != "gelu":
            raise ModelError(f"{name} {config[name]!r} is not supported; known: gelu")
    for kind, rope in (config.get("rope_parameters") or {}).items():
        if (rope or {}).get("rope_type", "default") != "default":
            raise ModelError(f"rotary positions {rope['rope_type']!r} of {kind} are not supported; known: default")


def _shape(config: Mapping[str, Any], weights: Mapping[str, Tensor], task: Task) -> ModernShape:
    hidden, count = int(config["hidden_size"]), int(config["num_hidden_layers"])
    every = int(config.get("global_attn_every_n_layers", 3))
    kinds: Sequence[str] = config.get("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(count)
    ]
    rope = config.get("rope_parameters") or {}
    bases = {
        "full_attention": config.get("global_rope_theta") or 160_000.0,
        "sliding_attention": config.get("local_rope_theta") or 10_000.0,
    } | {kind: found["rope_theta"] for kind, found in rope.items() if found and "rope_theta" in found}
    # transformers puts a hidden layer before each head that it has a class for.
    dense = hidden if "head.dense.weight" in weights and task.kind not in ("embeddings", "multi-task") else 0
    mean = config.get("classifier_pooling") == "mean"
    heads = [head_shape(h, hidden, dense, "gelu") for h in task.heads]
    return ModernShape(
        vocab=int(config["vocab_size"]),
        hidden=hidden,
        positions=int(config["max_position_embeddings"]),
        attention_heads=int(config["num_attention_heads"]),
        ffn=int(config["intermediate_size"]),
        windows=tuple(int(config["local_attention"]) // 2 if kind == "sliding_attention" else 0 for kind in kinds),
        bases=tuple(float(bases[kind]) for kind in kinds),
        heads=tuple(replace(h, reads="mean") if mean and h.dense and h.reads == "first" else h for h in heads),
        eps=float(config.get("norm_eps", 1e-5)),
    )
