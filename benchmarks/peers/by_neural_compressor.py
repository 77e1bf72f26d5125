"""Static int8 by QDQ, its defaults for ONNX Runtime.

python benchmarks/peers/by_neural_compressor.py FP32.onnx CALIBRATION.npz OUT.onnx

Later than 3.7.1 it has no quantizer for ONNX; six is needed and not declared.

pip install --only-binary :all: neural-compressor==3.7.1 onnx==1.17.0 onnxruntime==1.20.1 six==1.17.0
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from calibration import feeds
from neural_compressor import PostTrainingQuantConfig, quantization


class Loader:
    """What it asks of a loader: batches with a label each, and the size of a batch."""

    batch_size = 1

    def __init__(self, path: str) -> None:
        self.texts = list(feeds(path))

    def __iter__(self) -> Iterator[tuple[dict[str, Any], int]]:
        return ((text, 0) for text in self.texts)


def main() -> None:
    source, calibration, target = sys.argv[1:]
    loader = Loader(calibration)
    settings = PostTrainingQuantConfig(
        approach="static",
        quant_format="QDQ",
        calibration_sampling_size=[len(loader.texts)],
        # What it makes of a Concat that reads one tensor twice is no valid model.
        op_type_dict={"Concat": {"activation": {"dtype": ["fp32"]}, "weight": {"dtype": ["fp32"]}}},
    )
    quantization.fit(source, settings, calib_dataloader=loader).save(target)


if __name__ == "__main__":
    main()
