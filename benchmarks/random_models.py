"""What benchmarks of speed share: MiniLM's sizes with random weights, and batches of random tokens. No download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models

from attar.runtime.bench.texts import TEXTS
from attar.runtime.engines.onnx import Engine

VOCAB = 30522
# About 1.3 tokens a word, and the two around them.
MIXED = [round(1.3 * len(text.split())) + 2 for text in TEXTS[-32:]]
"""Tokens of 32 real texts."""
CLASSES = {
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
}


def checkpoint(folder: Path, layers: int, kind: str = "text-classification") -> Path:
    """A random BERT of MiniLM's width with a tokenizer of made-up words; `kind` is one of `CLASSES`."""
    import transformers
    from transformers.utils import logging as chatter

    chatter.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536
    )
    getattr(transformers, CLASSES[kind])(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(99))))}
    (folder / "tokenizer.json").write_text(Tokenizer(models.WordLevel(words, "[UNK]")).to_str(), encoding="utf-8")
    return folder


def call(engine: Engine, lengths: list[int]) -> Callable[[], object]:
    """One run over a batch of random tokens of these lengths."""
    places = np.arange(max(lengths))[None]
    mask = (places < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(0, VOCAB, mask.shape) * mask
    return lambda: engine.run(ids, mask)
