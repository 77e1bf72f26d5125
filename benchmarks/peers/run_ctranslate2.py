"""CTranslate2's encoder with int8 weights and activations; the linear head in numpy.

See system.py for the two commands. Its converter wants a pooler, which transformers then draws at random; the vectors
read here are those of the layer before it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import ctranslate2
import numpy as np
from system import Batch, Floats, checkpoint, headed, main
from tokens import tokenizer


def prepare(given: Path, made: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    folder = checkpoint(given)
    TransformersConverter(str(folder)).convert(str(made), quantization="int8", force=True)
    shutil.copy(folder / "tokenizer.json", made)


def load(given: Path, made: Path, threads: int) -> Batch:
    encode = tokenizer(made / "tokenizer.json", given, padded=False).encode_batch_fast
    encoder = ctranslate2.Encoder(str(made), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads)

    def vectors(texts: list[str]) -> Floats:
        states = encoder.forward_batch([row.ids for row in encode(texts)]).last_hidden_state
        return np.array(states)[:, 0]

    return headed(given, vectors)


if __name__ == "__main__":
    sys.exit(main("encoder, int8; head in numpy", prepare, load))
