"""Static int8 by QDQ, per channel, min-max.

python benchmarks/peers/by_onnxruntime.py FP32.onnx CALIBRATION.npz OUT.onnx

It runs in attar's own environment.
"""

from __future__ import annotations

import sys

from calibration import Reader
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static


def main() -> None:
    source, calibration, target = sys.argv[1:]
    quantize_static(
        source,
        target,
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


if __name__ == "__main__":
    main()
