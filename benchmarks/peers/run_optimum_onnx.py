"""optimum-onnx on transformers 4.57: ORTModelForFeatureExtraction, dynamic int8 by ORTQuantizer; the head in numpy.

See system.py for the two commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
from optimum.onnxruntime import AutoQuantizationConfig, ORTModelForFeatureExtraction, ORTQuantizer
from system import Batch, arm, checkpoint, headed, main
from transformers import AutoTokenizer


def prepare(given: Path, made: Path) -> None:
    settings = (AutoQuantizationConfig.arm64 if arm() else AutoQuantizationConfig.avx512_vnni)(
        is_static=False, per_channel=False
    )
    with TemporaryDirectory() as scratch:
        ORTModelForFeatureExtraction.from_pretrained(checkpoint(given), export=True).save_pretrained(scratch)
        ORTQuantizer.from_pretrained(scratch).quantize(settings, made)
    AutoTokenizer.from_pretrained(checkpoint(given)).save_pretrained(made)


def load(given: Path, made: Path, threads: int) -> Batch:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    model = ORTModelForFeatureExtraction.from_pretrained(
        made, file_name="model_quantized.onnx", session_options=options, provider="CPUExecutionProvider"
    )
    tokenizer = AutoTokenizer.from_pretrained(made)

    def vectors(texts: list[str]):  # type: ignore[no-untyped-def]
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        return model(**inputs).last_hidden_state[:, 0]

    return headed(given, vectors)


if __name__ == "__main__":
    sys.exit(main("ORTModel, dynamic int8; head in numpy", prepare, load))
