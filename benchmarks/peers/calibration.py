"""What every peer is given: token ids of calibration texts, one array a text, in an .npz file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader


def feeds(path: str) -> Iterator[dict[str, Any]]:
    """The graph's inputs for one text after another, each (1, T)."""
    with np.load(path) as texts:
        for name in texts.files:
            ids = texts[name][None]
            yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """The same in the form of ONNX Runtime: one text after another, then None."""

    def __init__(self, path: str) -> None:
        self.texts = feeds(path)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.texts, None)
