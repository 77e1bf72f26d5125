"""What to quantize and how; export decides which ONNX nodes say it."""
