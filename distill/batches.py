"""Rows of encoded texts as tensors, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attar.distill.device import device_of
from attar.runtime.tasks.base import Head
from attar.runtime.tokenizer import Encoded, pad


class Batch(NamedTuple):
    """Token ids, mask and, for pairs, token types (B, T), of the chosen rows."""

    rows: list[int]
    ids: Tensor
    mask: Tensor
    types: Tensor | None

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.ids, self.mask, self.types

    def on(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        types = None if self.types is None else self.types.to(device)
        return Batch(self.rows, self.ids.to(device), self.mask.to(device), types)


def collate(encoded: Encoded, rows: list[int], pad_id: int) -> Batch:
    """The chosen rows, padded on the right to the longest of them."""
    ids, mask = pad([encoded.ids[i] for i in rows], pad_id)
    types = None if encoded.types is None else torch.from_numpy(pad([encoded.types[i] for i in rows], 0)[0])
    return Batch(rows, torch.from_numpy(ids), torch.from_numpy(mask), types)


def batches(encoded: Encoded, pad_id: int, size: int, rows: Iterable[int] | None = None) -> Iterator[Batch]:
    """The chosen rows, or all, in batches of similar length."""
    order = sorted(range(len(encoded.ids)) if rows is None else rows, key=lambda i: (len(encoded.ids[i]), i))
    for start in range(0, len(order), size):
        yield collate(encoded, order[start : start + size], pad_id)


def gather(values: NDArray[Any] | list[NDArray[Any]], rows: Sequence[int], width: int, fill: int) -> Tensor:
    """Values of the chosen rows: (B, ...); one of (T, ...) a row is padded with `fill` to (B, width, ...)."""
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values[np.asarray(rows)])
    first = values[rows[0]]
    result = np.full((len(rows), width, *first.shape[1:]), fill, dtype=first.dtype)
    for place, i in enumerate(rows):
        result[place, : len(values[i])] = values[i][:width]
    return torch.from_numpy(result)


def run(
    network: nn.Module, heads: Sequence[Head], encoded: Encoded, pad_id: int, size: int = 64
) -> dict[str, NDArray[np.float32] | list[NDArray[np.float32]]]:
    """Raw outputs of every row in fp32, in the form that tasks read: (R, C), or one (T, C) a row."""
    count = len(encoded.ids)
    result: dict[str, Any] = {
        h.name: [None] * count if h.reads == "tokens" else np.empty((count, h.outputs), np.float32) for h in heads
    }
    with torch.no_grad():
        for batch in batches(encoded, pad_id, size):
            found = network(*batch.on(device_of(network)).inputs).heads
            for head in heads:
                values = found[head.name].float().cpu().numpy()
                if head.reads == "tokens":
                    for place, i in enumerate(batch.rows):
                        result[head.name][i] = values[place, : len(encoded.ids[i])].copy()
                else:
                    result[head.name][batch.rows] = values
    return result
