"""A Hugging Face PyTorch folder as a worker: `python -m attar.distill.bench_worker PATH --threads N`.

A fair baseline: fp32 in eager mode (no compiler) with the library's default attention, its fast tokenizer
called once for all texts, batches of similar length, `inference_mode`, and a tuned batch size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attar.runtime.bench.protocol import serve
from attar.runtime.errors import ModelError
from attar.runtime.tokenizer import pad, well_formed


class TorchSystem:
    """A sequence classifier of transformers on the CPU; the knob is the number of texts in a batch."""

    settings: tuple[int, ...] = (1, 8, 16, 32, 64, 128)

    def __init__(self, path: Path, threads: int, max_length: int | None) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        torch.set_num_threads(threads)
        # Typed loosely: transformers declares these as unions that no caller can satisfy under --strict.
        model_class: Any = AutoModelForSequenceClassification
        tokenizer_class: Any = AutoTokenizer
        try:
            self._tokenizer = tokenizer_class.from_pretrained(path, local_files_only=True)
            model = model_class.from_pretrained(path, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(f"transformers cannot load {path}: {reason}") from error
        if not self._tokenizer.is_fast:
            raise ModelError(f"{path} has no fast tokenizer (tokenizer.json), so it would not be a fair baseline")
        self._torch, self._model = torch, model.eval()
        # A tokenizer without a limit of its own reports an absurdly large number here.
        self._limit = max_length or min(self._tokenizer.model_max_length, 512)
        self._pad_id = self._tokenizer.pad_token_id or 0
        self._batch = 32
        names = model.config.id2label
        self.labels = [str(names[i]) for i in range(len(names))]
        self.kind = f"PyTorch {torch.__version__} fp32 eager, {model.config._attn_implementation} attention"

    def use(self, setting: int) -> None:
        self._batch = setting

    def one(self, text: str) -> str:
        return self.many([text])[0]

    def many(self, texts: Sequence[str]) -> list[str]:
        torch = self._torch
        clean = [well_formed(t) for t in texts]
        rows = self._tokenizer(clean, truncation=True, max_length=self._limit)["input_ids"]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        answers = [""] * len(rows)
        with torch.inference_mode():
            for start in range(0, len(rows), self._batch):
                chosen = order[start : start + self._batch]
                ids, mask = pad([rows[i] for i in chosen], self._pad_id)
                logits = self._model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
                best = torch.softmax(logits, dim=-1).max(dim=-1).indices.tolist()
                for i, index in zip(chosen, best, strict=True):
                    answers[i] = self.labels[index]
        return answers


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-length", type=int, help="tokens; longer texts are cut, as the bundle cuts them")
    chosen = parser.parse_args(argv)
    return serve(lambda: TorchSystem(chosen.path, chosen.threads, chosen.max_length))


if __name__ == "__main__":
    sys.exit(main())
