"""The teacher: a frozen Hugging Face model whose outputs are computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attar.distill.batches import batches, run
from attar.distill.checkpoint import read_tokenizer
from attar.distill.huggingface import HuggingFace
from attar.distill.trainer import Progress, autocast
from attar.runtime.bundle import aside
from attar.runtime.tasks.base import Head, Outputs, Task
from attar.runtime.tokenizer import Encoded, Text


@dataclass(frozen=True)
class Targets:
    """What the teacher said of each row of `encoded`; whatever it said of tokens is packed.

    Row i has the packed rows starts[i]:starts[i+1]. `heads`: (R, C), or (T, C) packed where a head reads tokens;
    `hidden`: (T, H) packed, by layer (1-based).
    """

    encoded: Encoded
    starts: NDArray[np.int64]
    heads: dict[str, NDArray[np.float32]]
    hidden: dict[int, NDArray[np.float16]]


class Teacher:
    """A fine-tuned model in PyTorch."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._model = HuggingFace(folder, task).eval()
        self._tokenizer = task.reader(read_tokenizer(folder), self._model.pad_id)
        self.task = task
        self.layers = self._model.layers
        self.parameters: int = sum(p.numel() for p in self._model.parameters())

    def outputs(self, encoded: Encoded) -> Outputs:
        """Raw outputs in full fp32."""
        return run(self._model, self.task.heads, encoded, self._model.pad_id)

    def answer(self, texts: Sequence[Text]) -> list[Any]:
        """Typed answers in full fp32, by the task's own post-processing: the reference of gate and report."""
        encoded = self.task.encode(self._tokenizer, texts)
        return self.task.answers(encoded, self.outputs(encoded))

    def targets(self, texts: Sequence[Text], layers: Sequence[int], cache: Path, progress: Progress) -> Targets:
        """Outputs and the hidden states after `layers` (1-based) for every text, computed once into `cache`.

        bf16 passes where the processor has them, and fp16 storage of hidden states; the gate never uses these.
        """
        encoded = self.task.encode(self._tokenizer, texts)
        starts = np.concatenate([[0], np.cumsum([len(r) for r in encoded.ids])]).astype(np.int64)
        if not cache.is_dir():
            self._compute(encoded, starts, layers, cache, progress)
        hidden = {k: np.load(cache / f"hidden{k}.npy", mmap_mode="r") for k in layers}
        heads = {h.name: np.load(cache / f"head-{h.name}.npy", mmap_mode="r") for h in self.task.heads}
        return Targets(encoded, starts, heads, hidden)

    def _compute(
        self, encoded: Encoded, starts: NDArray[np.int64], layers: Sequence[int], cache: Path, progress: Progress
    ) -> None:
        count, done = len(encoded.ids), 0
        with aside(cache) as folder:
            heads = {
                h.name: _store(folder / f"head-{h.name}.npy", self._shape(h, starts), np.float32)
                for h in self.task.heads
            }
            stores = {
                k: _store(folder / f"hidden{k}.npy", (int(starts[-1]), self._model.hidden_size), np.float16)
                for k in layers
            }
            for batch in batches(encoded, self._model.pad_id, 64):
                with torch.no_grad(), autocast(True):
                    found = self._model(*batch.inputs, hidden=bool(layers))
                packed = [(s, found.hidden[k - 1].to(torch.float16).numpy()) for k, s in stores.items()]
                for h in self.task.heads:
                    values = found.heads[h.name].float().numpy()
                    if h.reads == "tokens":
                        packed.append((heads[h.name], values))
                    else:
                        heads[h.name][batch.rows] = values
                for store, values in packed:
                    for place, i in enumerate(batch.rows):
                        store[starts[i] : starts[i + 1]] = values[place, : len(encoded.ids[i])]
                done += len(batch.rows)
                progress(done / count, f"teacher outputs {done}/{count}")
            for store in (*heads.values(), *stores.values()):
                store.flush()

    def _shape(self, head: Head, starts: NDArray[np.int64]) -> tuple[int, int]:
        return (int(starts[-1]) if head.reads == "tokens" else len(starts) - 1), head.outputs


def _store(path: Path, shape: tuple[int, int], dtype: Any) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
