"""A student into files: ONNX, bundles; and parity with PyTorch."""
