"""Dynamic int8 by ORTQuantizer, avx512_vnni or arm64.

python benchmarks/peers/by_optimum_onnx.py FP32.onnx CALIBRATION.npz OUT.onnx

It needs a torch: the CPU's first, or pip brings gigabytes for a GPU. Dynamic: the calibration texts are not read.

pip install --only-binary :all: torch==2.13.0
pip install --only-binary :all: torch==2.13.0 optimum-onnx==0.1.0 transformers==4.57.6 onnx==1.21.0 onnxruntime==1.24.4
"""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer


def main() -> None:
    source, _, target = map(Path, sys.argv[1:])
    arm = platform.machine().lower() in ("aarch64", "arm64")
    settings = (AutoQuantizationConfig.arm64 if arm else AutoQuantizationConfig.avx512_vnni)(
        is_static=False, per_channel=False
    )
    folder = target.parent / "optimum"
    ORTQuantizer(source).quantize(settings, folder)
    shutil.move(next(folder.glob("*.onnx")), target)


if __name__ == "__main__":
    main()
