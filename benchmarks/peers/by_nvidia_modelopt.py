"""Static int8, its defaults for ONNX but fp32 beside int8.

python benchmarks/peers/by_nvidia_modelopt.py FP32.onnx CALIBRATION.npz OUT.onnx

It writes for TensorRT and the table runs on a CPU, which has no kernels for fp16, its default beside int8. It needs a
torch: the CPU's first, or pip brings gigabytes for a GPU. What else it declares asks for onnxruntime-gpu and cupy,
which it can do without here: so it comes without its dependencies, and those in use come by name.

pip install --only-binary :all: torch==2.13.0
pip install --only-binary :all: --no-deps nvidia-modelopt==0.47.0
pip install --only-binary :all: onnx==1.21.0 onnxruntime==1.24.4 onnxconverter-common==1.16.0 onnxscript==0.7.2
pip install --only-binary :all: onnx-graphsurgeon==0.6.1 onnxslim==0.1.98 polygraphy==0.53.6 lief==1.0.0
pip install --only-binary :all: omegaconf==2.4.0 pulp==3.3.2 pydantic==2.14.3 regex==2026.11.15 safetensors==0.8.0
pip install --only-binary :all: ninja==1.13.2 nvidia-ml-py==13.615.71 rich==15.0.0 scipy==1.17.1 tqdm==4.70.1
"""

from __future__ import annotations

import sys
from typing import Any

import onnx
from calibration import Reader, feeds
from modelopt.onnx.quantization import quantize


class TrialReader(Reader):
    """It runs the graph once on the first text before it begins."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def get_first(self) -> dict[str, Any]:
        return next(feeds(self.path))


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A Cast to what they are, floats, behind ONNX Runtime's own nodes: modelopt drops the types that the model gives,
    and does not quantize what it knows no type of."""
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.domain:
            (name,) = node.output
            node.output[0] = f"{name}_untyped"
            nodes.append(onnx.helper.make_node("Cast", [node.output[0]], [name], to=onnx.TensorProto.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def main() -> None:
    source, calibration, target = sys.argv[1:]
    onnx.save(typed(onnx.load(source)), f"{target}.typed.onnx")
    quantize(
        f"{target}.typed.onnx",
        quantize_mode="int8",
        calibration_data_reader=TrialReader(calibration),
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        mha_accumulation_dtype="fp32",
        dq_only=True,
        output_path=target,
    )


if __name__ == "__main__":
    main()
