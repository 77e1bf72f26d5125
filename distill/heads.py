"""Output heads, which every network shares: what they read of its last states, and the outputs that they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attar.runtime.tasks.base import Head

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": nn.functional.gelu,
    "relu": nn.functional.relu,
    "tanh": torch.tanh,
}


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


def head_shape(head: Head, hidden: int, dense: int = 0, activation: str = "tanh") -> HeadShape:
    """The network's side of a task's head; a vector is what it reads, as it is."""
    if head.objective == "vector":
        return HeadShape(head.name, hidden, head.reads, linear=False, unit=head.unit)
    return HeadShape(head.name, head.outputs, head.reads, dense, activation)


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
