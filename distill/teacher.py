"""The teacher: a frozen Hugging Face model whose outputs are computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.distill.batches import batches, run
from attar.distill.checkpoint import read_tokenizer
from attar.distill.device import CPU, within_memory
from attar.distill.huggingface import HuggingFace
from attar.distill.kept import Stores, bounds, digests, stored
from attar.distill.trainer import Progress, autocast
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Head, Outputs, Task
from attar.runtime.tokenizer import Encoded, Text


@dataclass(frozen=True)
class Targets:
    """What the teacher, of `depth` layers, said of each row of `encoded`; whatever it said of tokens is packed.

    Row i has the packed rows starts[i]:starts[i+1]. `heads`: (R, C), or (T, C) packed where a head reads tokens;
    `states`: (T, H) packed, by name (`hidden4`, `query12`).
    """

    encoded: Encoded
    starts: NDArray[np.int64]
    heads: Mapping[str, NDArray[np.float32]]
    states: Mapping[str, NDArray[np.float16]]
    depth: int = 0


class Teacher:
    """A fine-tuned model in PyTorch, on a device."""

    def __init__(self, folder: Path, task: Task, device: torch.device = CPU) -> None:
        self._model, self._device = HuggingFace(folder, task).eval().to(device), device
        self._tokenizer = task.reader(read_tokenizer(folder), self._model.pad_id)
        self.task = task
        self.layers = self._model.layers
        self.parameters: int = sum(p.numel() for p in self._model.parameters())

    @within_memory()
    def outputs(self, encoded: Encoded) -> Outputs:
        """Raw outputs in full fp32."""
        return run(self._model, self.task.heads, encoded, self._model.pad_id)

    def answer(self, texts: Sequence[Text]) -> list[Any]:
        """Typed answers in full fp32, by the task's own post-processing: the reference of gate and report."""
        encoded = self.task.encode(self._tokenizer, texts)
        return self.task.answers(encoded, self.outputs(encoded))

    def targets(
        self, texts: Sequence[Text], states: Sequence[str], cache: Path, progress: Progress, about: str = ""
    ) -> Targets:
        """Outputs and the named states for every text, kept in `cache`: only what is not there yet is computed.

        `about` tells this teacher and task from others: rows that a neighbouring folder (`targets-*`) has from the
        same one are copied, so a few more texts cost no more than themselves, and an interrupted pass goes on where
        it was. bf16 passes where the device has them, and fp16 storage of states, which rounds them by at most 1 in
        2,048; the gate never uses these. A file of the cache that is damaged is computed again.
        """
        encoded = self.task.encode(self._tokenizer, texts)
        starts = bounds([len(r) for r in encoded.ids])
        wanted: dict[str, tuple[int, int, np.dtype[Any]]] = {
            f"head-{h.name}": (self._rows(h, starts), h.outputs, np.dtype(np.float32)) for h in self.task.heads
        }
        wanted |= {name: (int(starts[-1]), 0, np.dtype(np.float16)) for name in states}
        missing = [name for name, form in wanted.items() if stored(cache / f"{name}.npy", *form) is None]
        if missing:
            self._compute(encoded, missing, cache, progress, about)
        found = {name: np.load(cache / f"{name}.npy", mmap_mode="r") for name in wanted}
        heads = {h.name: found[f"head-{h.name}"] for h in self.task.heads}
        return Targets(encoded, starts, heads, {name: found[name] for name in states}, self.layers)

    @within_memory()
    def _compute(self, encoded: Encoded, names: Sequence[str], cache: Path, progress: Progress, about: str) -> None:
        """What is said of all rows, in one pass over those that no neighbour has: whole files or none."""
        states = [name for name in names if not name.startswith("head-")]
        heads = [h for h in self.task.heads if f"head-{h.name}" in names]
        packed = {*states, *(f"head-{h.name}" for h in heads if h.reads == "tokens")}
        rows = digests(encoded, about)
        with Stores(cache, rows, packed) as stores:
            left = stores.reuse(names)
            done = len(rows) - len(left)
            for batch in batches(encoded, self._model.pad_id, 64, left):
                with torch.no_grad(), autocast(True, self._device):
                    found = self._model(*batch.on(self._device).inputs, states=states)
                for name, values in zip(states, found.hidden, strict=True):
                    stores.put(name, half(values, name), batch.rows)
                for h in heads:
                    stores.put(f"head-{h.name}", found.heads[h.name].float().cpu().numpy(), batch.rows)
                stores.done(batch.rows)
                done += len(batch.rows)
                progress(done / len(rows), f"teacher outputs {done}/{len(rows)}")
            stores.publish()

    def _rows(self, head: Head, starts: NDArray[np.int64]) -> int:
        return int(starts[-1]) if head.reads == "tokens" else len(starts) - 1


def half(values: Tensor, name: str) -> NDArray[np.float16]:
    """The same values in fp16; `ModelError` where one is too large for it, which would end as NaN in a loss."""
    found: NDArray[np.float16] = values.to(torch.float16).cpu().numpy()
    if not np.isfinite(found).all():
        raise ModelError(f"the teacher's {name} has values beyond the 65,504 of fp16, or NaN: it cannot be learnt from")
    return found
