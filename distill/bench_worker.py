"""A Hugging Face PyTorch folder as a worker: `python -m attar.distill.bench_worker PATH --threads N [--mode NAME]`.

A fair baseline: the library's default attention, a fast tokenizer called once for all texts, batches of similar length,
`inference_mode`, the same post-processing, and a tuned batch size; fp32 in eager mode, or `compile` (by inductor, for
any shape) or `bf16` (weights and activations).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attar.distill.batches import run
from attar.distill.checkpoint import read_tokenizer
from attar.distill.huggingface import HuggingFace
from attar.distill.importers import import_checkpoint, importable
from attar.distill.plain import plain_student
from attar.runtime.bench.protocol import serve
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import shortened
from attar.runtime.tokenizer import Text

SAID = {"eager": "fp32 eager", "compile": "fp32 compiled", "bf16": "bf16 eager"}
"""The modes, in the words of the report."""


class TorchSystem:
    """A model of transformers on the CPU; the knob is the number of rows in a batch."""

    settings: tuple[int, ...] = (1, 8, 16, 32, 64, 128)

    def __init__(self, path: Path, threads: int, max_length: int | None, mode: str = "eager") -> None:
        torch.set_num_threads(threads)
        task = import_checkpoint(path).task if importable(path) else plain_student(path, max_length or 512).task
        self.task = task if max_length is None else shortened(task, max_length)
        self._model = HuggingFace(path, self.task, attention=None).eval()
        self._reader = self.task.reader(read_tokenizer(path), self._model.pad_id)
        self._batch = 32
        attention = self._model.model.config._attn_implementation
        if mode == "bf16":
            self._model.to(torch.bfloat16)
        self._network: nn.Module = compiled(self._model) if mode == "compile" else self._model
        self.kind = f"PyTorch {torch.__version__} {SAID[mode]}, {attention} attention"

    def use(self, setting: int) -> None:
        self._batch = setting

    def fix(self, rows: int, tokens: int) -> None:
        self._batch = rows

    def many(self, texts: Sequence[Text]) -> list[Any]:
        encoded = self.task.encode(self._reader, texts)
        with torch.inference_mode():
            found = run(self._network, self.task.heads, encoded, self._model.pad_id, self._batch)
        return self.task.answers(encoded, found)


def compiled(model: nn.Module) -> nn.Module:
    """The model by torch.compile, which needs a C++ compiler on a CPU; its first calls compile."""
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise SettingsError("torch-compile needs a C++ compiler: install g++ or clang++, or leave that baseline out")
    found: nn.Module = torch.compile(model, dynamic=True)  # type: ignore[assignment]  # it says Callable
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-length", type=int, help="tokens; longer texts are cut, as the bundle cuts them")
    parser.add_argument("--mode", choices=SAID, default="eager")
    chosen = parser.parse_args(argv)
    return serve(lambda: TorchSystem(chosen.path, chosen.threads, chosen.max_length, chosen.mode))


if __name__ == "__main__":
    sys.exit(main())
