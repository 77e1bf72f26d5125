"""Any transformers model by the plain route of `torch.onnx.export`: the fp32 baseline that users know."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from attar.distill.huggingface import HuggingFace
from attar.export.onnx.graph import name_outputs, output_of
from attar.runtime.tasks.base import INPUTS, Task


class _Heads(nn.Module):
    def __init__(self, model: HuggingFace) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(self.model(ids, mask, types).heads.values())


def export_plain(folder: Path, task: Task) -> bytes:
    """The serialized fp32 model of a Hugging Face folder, with dynamic batch and length."""
    module = _Heads(HuggingFace(folder, task)).eval()
    ids = torch.ones(2, 16, dtype=torch.int64)
    inputs: tuple[Tensor, ...] = (ids, torch.ones_like(ids))
    if task.pairs and module.model.typed:
        inputs = (*inputs, torch.zeros_like(ids))
    heads = [h.name for h in task.heads]
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    quiet = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module, inputs, dynamo=True, verbose=False, external_data=False,
            input_names=INPUTS[: len(inputs)], output_names=[output_of(head) for head in heads],
            dynamic_shapes=tuple(dynamic for _ in inputs),
        )  # fmt: skip
    assert program is not None
    model = program.model_proto
    name_outputs(model.graph, heads)
    return bytes(model.SerializeToString())
