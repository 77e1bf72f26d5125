"""Keeps the zeros of a sparse student while it learns: its zeros are weights that a step chose to do without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from attar.distill.encoder import MATRICES, Encoder
from attar.distill.student import Student


@contextmanager
def zeros_held(student: Student) -> Iterator[None]:
    """While open no gradient reaches the zeros in the matrices of the layers, where a step of the lineage says how many
    `zeros` it wrote. AdamW then leaves them: without gradients there is no momentum, and its decay is a factor."""
    network, handles = student.encoder, []
    if isinstance(network, Encoder) and any("zeros" in step for step in student.lineage):
        named = (entry for layer in network.layers for entry in layer.named_parameters())
        weights = [p for name, p in named if name.split(".")[0] in MATRICES and p.ndim == 2]
        handles = [p.register_hook(_masked(p.detach() != 0)) for p in weights if p.requires_grad]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _masked(there: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * there
