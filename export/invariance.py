"""Does a text's answer depend on the texts beside it, or on padding? Measured on the exported bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from attar.runtime.model import Model
from attar.runtime.tokenizer import Encoded, pad

ROWS = 16
"""How many rows are asked alone, beside each other, and with more padding."""


def moved(model: Model, encoded: Encoded) -> float:
    """The largest change of a raw output of the first rows, relative to the largest of them (at least 1), between a row
    alone and the same row beside others or padded to what the model reads at most."""
    rows = encoded.ids[:ROWS]
    kinds = None if encoded.types is None else encoded.types[:ROWS]
    together, worst = _run(model, rows, kinds, 0), 0.0
    for i, row in enumerate(rows):
        mine = None if kinds is None else kinds[i : i + 1]
        alone, padded = (_run(model, [row], mine, width) for width in (0, model.task.max_length))
        for head in model.task.heads:
            token = slice(len(row)) if head.reads == "tokens" else slice(None)
            wanted = alone[head.name][0][token]
            for found in (together[head.name][i], padded[head.name][0]):
                difference = np.abs(found[token] - wanted).max() / max(1.0, np.abs(wanted).max())
                worst = max(worst, float(np.nan_to_num(difference, nan=np.inf)))
    return worst


def _run(
    model: Model, rows: list[list[int]], kinds: list[list[int]] | None, width: int
) -> Mapping[str, NDArray[np.float32]]:
    """The outputs of these rows in one batch, padded to the longest of them, or to `width` tokens if that is more."""
    types = None if kinds is None else pad(kinds, 0, width)[0]
    return model.engine.run(*pad(rows, model.tokenizer.pad_id, width), types)
