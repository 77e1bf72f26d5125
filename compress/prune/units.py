"""What can be pruned, and multipliers of it: a unit is a head, an FFN neuron, or one of the states' dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attar.distill.encoder import Encoder, LayerShape

Part = Literal["heads", "ffn", "width"]
OUTWARD = {"heads": "output", "ffn": "ffn_out"}
"""The matrix that reads the units of a layer."""


def count(shape: LayerShape, part: Part) -> int:
    """How many units of a layer there are."""
    return shape.heads if part == "heads" else shape.ffn


def with_count(shape: LayerShape, part: Part, wanted: int) -> LayerShape:
    """The layer's shape with so many units."""
    return replace(shape, heads=wanted) if part == "heads" else replace(shape, ffn=wanted)


def sizes(encoder: Encoder, part: Part) -> list[int]:
    """How many units there are: one number a layer; of the width, which all layers share, a single one."""
    if part == "width":
        return [encoder.shape.hidden]
    return [count(shape, part) for shape in encoder.shape.layers]


def columns(shape: LayerShape, part: Part, units: Tensor) -> Tensor:
    """The inputs of the outward matrix that the units (k,) of a layer are: (k * head size,) or (k,)."""
    if part != "heads":
        return units
    return (units[:, None] * shape.head_size + torch.arange(shape.head_size)).flatten()


@contextmanager
def multiplied(encoder: Encoder, part: Part, values: Sequence[Tensor]) -> Iterator[None]:
    """While open every unit is multiplied by its value: one tensor for each of `sizes`, (units,) or (B, 1, units).

    A dimension of the states is multiplied wherever a LayerNorm writes it.
    """
    handles = []
    if part == "width":
        norms = [m for m in encoder.modules() if isinstance(m, nn.LayerNorm)]
        handles = [m.register_forward_hook(_scale_output(values[0])) for m in norms]
    else:
        for layer, shape, value in zip(encoder.layers, encoder.shape.layers, values, strict=True):
            wide = value.repeat_interleave(shape.head_size, -1) if part == "heads" else value
            handles.append(layer.get_submodule(OUTWARD[part]).register_forward_pre_hook(_scale_input(wide)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _scale_output(value: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda _, __, output: output * value


def _scale_input(value: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    return lambda _, inputs: (inputs[0] * value,)
