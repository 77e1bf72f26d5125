"""Triton's Python backend: a network's outputs to answers. It runs where attar is not installed: numpy suffices."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the task from config.pbtxt."""
        self.task = json.loads(json.loads(args["model_config"])["parameters"]["attar"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """`RAW` (B, C) -> what the answers of the task's kind hold."""
        kinds = {"text-classification": self.classify, "regression": self.number, "embeddings": self.shorten}
        answer = kinds[self.task["kind"]]
        responses = []
        for request in requests:
            found = answer(pb_utils.get_input_tensor_by_name(request, "RAW").as_numpy())
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor(n, a) for n, a in found.items()]))
        return responses

    def classify(self, logits: Any) -> dict[str, Any]:
        """`LABEL` (B, 1), of several labels a JSON list; `SCORE` (B, 1), the highest; `SCORES` (B, C)."""
        labels, scaled = self.task["labels"], logits / self.task["temperature"]
        if self.task["multi_label"]:
            scores = 0.5 * (1 + np.tanh(0.5 * scaled))
            held = scores >= np.array(self.task["thresholds"] or 0.5)
            names = [json.dumps([n for n, h in zip(labels, row, strict=True) if h], ensure_ascii=False) for row in held]
        else:
            scores = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            names = [labels[i] for i in scores.argmax(axis=1)]
        scores = scores.astype(np.float32)
        named = np.array([[name.encode()] for name in names], dtype=object)
        return {"LABEL": named, "SCORE": scores.max(axis=1, keepdims=True), "SCORES": scores}

    def number(self, raw: Any) -> dict[str, Any]:
        """`VALUE` (B, 1) in the unit of the training labels."""
        return {"VALUE": (self.task["mean"] + self.task["scale"] * raw.astype(np.float64)).astype(np.float32)}

    def shorten(self, vectors: Any) -> dict[str, Any]:
        """`VECTOR` (B, D), of the leading dimensions where the task says so."""
        kept = vectors[:, : self.task["truncate"] or None]
        if self.task["truncate"] and self.task["normalise"]:
            kept = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
        return {"VECTOR": np.ascontiguousarray(kept, dtype=np.float32)}
