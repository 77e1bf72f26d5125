"""Triton's Python backend: texts to token ids. It runs where attar is not installed: numpy and tokenizers suffice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """What Triton looks for in model.py."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer beside this file, and what config.pbtxt says of it."""
        settings = json.loads(json.loads(args["model_config"])["parameters"]["attar"]["string_value"])
        self.tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self.tokenizer.enable_truncation(settings["max_length"])
        # Batches are made of requests of one length only: rounded up there are few. Padding does not change answers.
        self.tokenizer.enable_padding(pad_id=settings["pad_id"], pad_to_multiple_of=settings["multiple"])
        self.typed, self.prompt, self.longest = settings["typed"], settings["prompt"], settings["max_length"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """`TEXT` (B, 1), or (B, 2) for pairs, as UTF-8 -> `input_ids`, `attention_mask` (B, T) int64."""
        return [self.respond(pb_utils.get_input_tensor_by_name(r, "TEXT").as_numpy()) for r in requests]

    def respond(self, texts: Any) -> Any:
        """The response to one request."""
        rows = [[part.decode("utf-8", "replace") for part in row] for row in texts.tolist()]
        found = self.tokenizer.encode_batch([tuple(r) if len(r) > 1 else self.prompt + r[0] for r in rows])
        columns = {"input_ids": [e.ids for e in found], "attention_mask": [e.attention_mask for e in found]}
        if self.typed:
            columns["token_type_ids"] = [e.type_ids for e in found]
        arrays = {name: np.array(rows, dtype=np.int64)[:, : self.longest] for name, rows in columns.items()}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])
