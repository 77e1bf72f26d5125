"""Static int8 of its ONNX backend, preset for transformers.

python benchmarks/peers/by_nncf.py FP32.onnx CALIBRATION.npz OUT.onnx

pip install --only-binary :all: nncf==3.4.0 onnx==1.21.0 onnxruntime==1.24.4
"""

from __future__ import annotations

import sys

import nncf
import onnx
from calibration import feeds


def main() -> None:
    source, calibration, target = sys.argv[1:]
    texts = nncf.Dataset(list(feeds(calibration)))
    model = nncf.quantize(
        onnx.load(source), texts, model_type=nncf.ModelType.TRANSFORMER, subset_size=texts.get_length() or 300
    )
    onnx.save(model, target)


if __name__ == "__main__":
    main()
