"""fastembed with a local model: its own session and pooling around ONNX Runtime's dynamic int8; the head in numpy.

See system.py for the two commands.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from system import Batch, checkpoint, headed, main

FILE, NAME = "model.onnx", "local/student"


def prepare(given: Path, made: Path) -> None:
    for path in checkpoint(given).glob("*.json"):
        shutil.copy(path, made)
    shutil.copy(given / "onnx" / "int8.onnx", made / FILE)


def load(given: Path, made: Path, threads: int) -> Batch:
    TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.CLS,
        normalization=False,
        sources=ModelSource(hf=NAME),  # never asked: the folder is given
        dim=0,
        model_file=FILE,
    )
    model = TextEmbedding(NAME, specific_model_path=str(made), threads=threads, providers=["CPUExecutionProvider"])
    return headed(given, lambda texts: np.array(list(model.embed(texts, batch_size=len(texts)))))


if __name__ == "__main__":
    sys.exit(main("local model, dynamic int8; head in numpy", prepare, load))
