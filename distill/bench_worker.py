"""A Hugging Face PyTorch folder as a worker: `python -m attar.distill.bench_worker PATH --threads N`.

A fair baseline: fp32 in eager mode (no compiler) with the library's default attention, a fast tokenizer called once
for all texts, batches of similar length, `inference_mode`, the same post-processing, and a tuned batch size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from attar.distill.batches import run
from attar.distill.checkpoint import read_tokenizer
from attar.distill.huggingface import HuggingFace
from attar.distill.importers import import_checkpoint, importable
from attar.distill.plain import plain_student
from attar.runtime.bench.protocol import serve
from attar.runtime.tasks.base import shortened
from attar.runtime.tokenizer import Text


class TorchSystem:
    """A model of transformers on the CPU; the knob is the number of rows in a batch."""

    settings: tuple[int, ...] = (1, 8, 16, 32, 64, 128)

    def __init__(self, path: Path, threads: int, max_length: int | None) -> None:
        torch.set_num_threads(threads)
        task = import_checkpoint(path).task if importable(path) else plain_student(path, max_length or 512).task
        self.task = task if max_length is None else shortened(task, max_length)
        self._model = HuggingFace(path, self.task, attention=None).eval()
        self._reader = self.task.reader(read_tokenizer(path), self._model.pad_id)
        self._batch = 32
        attention = self._model.model.config._attn_implementation
        self.kind = f"PyTorch {torch.__version__} fp32 eager, {attention} attention"

    def use(self, setting: int) -> None:
        self._batch = setting

    def many(self, texts: Sequence[Text]) -> list[Any]:
        encoded = self.task.encode(self._reader, texts)
        with torch.inference_mode():
            found = run(self._model, self.task.heads, encoded, self._model.pad_id, self._batch)
        return self.task.answers(encoded, found)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-length", type=int, help="tokens; longer texts are cut, as the bundle cuts them")
    chosen = parser.parse_args(argv)
    return serve(lambda: TorchSystem(chosen.path, chosen.threads, chosen.max_length))


if __name__ == "__main__":
    sys.exit(main())
