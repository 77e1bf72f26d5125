"""The teacher: a frozen Hugging Face classifier whose outputs are computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attar.distill.finetune import load_classifier
from attar.distill.importers import read_config, read_tokenizer
from attar.distill.trainer import Progress, autocast
from attar.runtime.bundle import aside
from attar.runtime.tokenizer import Tokenizer, pad


@dataclass(frozen=True)
class Targets:
    """What the teacher said of each text. Hidden states are packed: text i has rows starts[i]:starts[i+1]."""

    rows: list[list[int]]
    logits: NDArray[np.float32]
    starts: NDArray[np.int64]
    hidden: dict[int, NDArray[np.float16]]

    def states(self, layer: int, chosen: Sequence[int], width: int) -> torch.Tensor:
        """Hidden states after `layer` (1-based) of the chosen texts, padded with zeros: (B, width, H)."""
        source = self.hidden[layer]
        result = np.zeros((len(chosen), width, source.shape[1]), dtype=np.float16)
        for row, i in enumerate(chosen):
            span = source[self.starts[i] : self.starts[i + 1]][:width]
            result[row, : len(span)] = span
        return torch.from_numpy(result)


class Teacher:
    """A fine-tuned classifier in PyTorch."""

    def __init__(self, folder: Path, max_length: int) -> None:
        self._model = load_classifier(folder).eval()
        self._pad = int(read_config(folder).get("pad_token_id") or 0)
        self._tokenizer = Tokenizer(read_tokenizer(folder), max_length, self._pad)
        self.layers: int = self._model.config.num_hidden_layers
        self.parameters: int = sum(p.numel() for p in self._model.parameters())

    def logits(self, texts: Sequence[str], batch: int = 64) -> NDArray[np.float32]:
        """Scores (N, C) in full fp32: the reference of gate and report."""
        rows = self._tokenizer.encode(texts).ids
        result = np.empty((len(rows), self._model.config.num_labels), dtype=np.float32)
        for chosen in _by_length(rows, batch):
            result[chosen] = self._run(rows, chosen, bf16=False).logits.numpy()
        return result

    def _run(self, rows: list[list[int]], chosen: list[int], bf16: bool, hidden: bool = False):  # type: ignore[no-untyped-def]  # a transformers output
        ids, mask = pad([rows[i] for i in chosen], self._pad)
        with torch.no_grad(), autocast(bf16):
            return self._model(
                torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), output_hidden_states=hidden
            )

    def targets(self, texts: Sequence[str], layers: Sequence[int], cache: Path, progress: Progress) -> Targets:
        """Logits and the hidden states after `layers` (1-based) for every text, computed once into `cache`.

        bf16 passes where the processor has them, and fp16 storage; the gate never uses these, but `logits`.
        """
        rows = self._tokenizer.encode(texts).ids
        if not cache.is_dir():
            self._compute(rows, layers, cache, progress)
        starts = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
        hidden = {k: np.load(cache / f"hidden{k}.npy", mmap_mode="r") for k in layers}
        return Targets(rows, np.load(cache / "logits.npy"), starts, hidden)

    def _compute(self, rows: list[list[int]], layers: Sequence[int], cache: Path, progress: Progress) -> None:
        starts = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
        width = self._model.config.hidden_size
        with aside(cache) as folder:
            logits = np.empty((len(rows), self._model.config.num_labels), dtype=np.float32)
            stores = {
                k: np.lib.format.open_memmap(
                    folder / f"hidden{k}.npy", mode="w+", dtype=np.float16, shape=(int(starts[-1]), width)
                )
                for k in layers
            }
            done = 0
            for chosen in _by_length(rows, 64):
                found = self._run(rows, chosen, bf16=True, hidden=True)
                logits[chosen] = found.logits.float().numpy()
                for k, store in stores.items():
                    states = found.hidden_states[k].to(torch.float16).numpy()
                    for row, i in enumerate(chosen):
                        store[starts[i] : starts[i + 1]] = states[row, : len(rows[i])]
                done += len(chosen)
                progress(done / len(rows), f"teacher outputs {done}/{len(rows)}")
            for store in stores.values():
                store.flush()
            np.save(folder / "logits.npy", logits)


def _by_length(rows: Sequence[Sequence[int]], batch: int) -> list[list[int]]:
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return [order[i : i + batch] for i in range(0, len(order), batch)]
