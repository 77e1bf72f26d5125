"""From `Student` to an ONNX model whose nodes are written for the engine that runs them."""

from attar.export.onnx.lower import MICROSOFT, OPSET, to_onnx

__all__ = ["MICROSOFT", "OPSET", "to_onnx"]
