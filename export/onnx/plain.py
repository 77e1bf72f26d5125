"""Any transformers classifier by the plain route of `torch.onnx.export`: the fp32 baseline that users know."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.distill.finetune import load_classifier


class _Logits(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def export_plain(folder: Path) -> bytes:
    """The serialized fp32 model of a Hugging Face folder, with dynamic batch and length."""
    module = _Logits(load_classifier(folder)).eval()
    ids = torch.ones(2, 16, dtype=torch.int64)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    quiet = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, (ids, torch.ones_like(ids)), dynamo=True, verbose=False, external_data=False,
            input_names=["input_ids", "attention_mask"], output_names=["logits"],
            dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
        )  # fmt: skip
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
