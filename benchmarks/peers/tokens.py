"""Tokenization for those systems that bring none of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from system import task
from tokenizers import Tokenizer

Inputs = dict[str, NDArray[np.int64]]


def tokenizer(path: Path, given: Path, *, padded: bool) -> Tokenizer:
    """A tokenizer.json, cut at the task's length."""
    found = Tokenizer.from_file(str(path))
    found.enable_truncation(task(given)["max_length"])
    if padded:
        found.enable_padding(pad_id=task(given)["pad_id"])
    else:
        found.no_padding()
    return found


def reader(path: Path, given: Path) -> Callable[[list[str]], Inputs]:
    """Texts to the three inputs (B, T) of a BERT, padded to the longest."""
    encode = tokenizer(path, given, padded=True).encode_batch_fast

    def read(texts: list[str]) -> Inputs:
        found = encode(texts)
        ids = np.array([row.ids for row in found], dtype=np.int64)
        mask = np.array([row.attention_mask for row in found], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    return read
