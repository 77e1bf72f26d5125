"""OpenVINO's CPU plugin on an IR that nncf made int8, static, by 300 training texts; the linear head in numpy.

See system.py for the two commands.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nncf
import openvino
from system import Batch, Floats, checkpoint, headed, main, train
from tokens import Inputs, reader

TEXTS = 300


def prepare(given: Path, made: Path) -> None:
    read = reader(checkpoint(given) / "tokenizer.json", given)
    texts, _ = train(given)
    chosen = texts[:: max(1, len(texts) // TEXTS)][:TEXTS]
    model = nncf.quantize(
        openvino.convert_model(given / "onnx" / "fp32.onnx"),
        nncf.Dataset([read([text]) for text in chosen]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(chosen),
    )
    openvino.save_model(model, made / "model.xml")
    shutil.copy(checkpoint(given) / "tokenizer.json", made)


def load(given: Path, made: Path, threads: int) -> Batch:
    read = reader(made / "tokenizer.json", given)
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(made / "model.xml", "CPU", settings).create_infer_request()

    def vectors(texts: list[str]) -> Floats:
        inputs: Inputs = read(texts)
        return request.infer(inputs)[0][:, 0]  # type: ignore[no-any-return]

    return headed(given, vectors)


if __name__ == "__main__":
    sys.exit(main("IR, static int8 by nncf; head in numpy", prepare, load))
