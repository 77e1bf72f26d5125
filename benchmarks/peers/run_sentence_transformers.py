"""sentence-transformers with its ONNX backend, int8 by its own export; the linear head in numpy.

See system.py for the two commands.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model
from system import Batch, arm, checkpoint, headed, main

NAME = "arm64" if arm() else "avx512_vnni"
FILE = f"onnx/model_qint8_{NAME}.onnx"


def prepare(given: Path, made: Path) -> None:
    model = SentenceTransformer(str(checkpoint(given)), backend="onnx", device="cpu", model_kwargs={"export": True})
    model.save_pretrained(str(made))
    export_dynamic_quantized_onnx_model(model, NAME, str(made))
    (made / "onnx" / "model.onnx").unlink()


def load(given: Path, made: Path, threads: int) -> Batch:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    wanted = {"file_name": FILE, "provider": "CPUExecutionProvider", "session_options": options}
    model = SentenceTransformer(str(made), backend="onnx", device="cpu", model_kwargs=wanted)
    return headed(given, lambda texts: model.encode(texts, batch_size=len(texts), show_progress_bar=False))


if __name__ == "__main__":
    sys.exit(main("ONNX backend, dynamic int8; head in numpy", prepare, load))
