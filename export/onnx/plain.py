"""Any transformers model by the plain route of `torch.onnx.export`: the fp32 baseline that users know, and the way of
families that `Encoder` does not import."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from attar.distill.huggingface import HuggingFace
from attar.distill.plain import Plain
from attar.distill.student import Student
from attar.export.onnx.files import files_of
from attar.export.onnx.graph import name_outputs, output_of
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import INPUTS, Task


class _Heads(nn.Module):
    def __init__(self, model: HuggingFace) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> tuple[Tensor, ...]:
        return tuple(self.model(ids, mask, types).heads.values())


def export_plain(folder: Path, task: Task) -> bytes:
    """The serialized fp32 model of a Hugging Face folder, with dynamic batch and length."""
    return bytes(_exported(HuggingFace(folder, task).eval(), task).SerializeToString())


def plain_files(folder: Path, task: Task) -> dict[str, bytes]:
    """The same as the files of a bundle, large weights beside the graph."""
    return files_of(_exported(HuggingFace(folder, task).eval(), task))


def lower(student: Student) -> onnx.ModelProto:
    """The model of a network that is exported as it is."""
    network = student.encoder
    assert isinstance(network, Plain)
    return _kept(network.model, student.task)


@lru_cache(maxsize=1)
def _kept(model: HuggingFace, task: Task) -> onnx.ModelProto:
    """Parity, gate and bundle ask for the same graph, and tracing it takes long."""
    return _exported(model, task)


def _exported(model: HuggingFace, task: Task) -> onnx.ModelProto:
    module = _Heads(model).eval()
    ids = torch.ones(2, 16, dtype=torch.int64)
    inputs: tuple[Tensor, ...] = (ids, torch.ones_like(ids))
    if task.pairs and model.typed:
        inputs = (*inputs, torch.zeros_like(ids))
    heads = [h.name for h in task.heads]
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    quiet = io.StringIO()
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)  # it misses torchvision
    with warnings.catch_warnings(), redirect_stdout(quiet), redirect_stderr(quiet), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module, inputs, dynamo=True, verbose=False, external_data=False,
                input_names=INPUTS[: len(inputs)], output_names=[output_of(head) for head in heads],
                dynamic_shapes=tuple(dynamic for _ in inputs),
            )  # fmt: skip
        except Exception as error:  # the exporter raises many unrelated types
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            family = model.model.config.model_type
            raise ModelError(f"torch {torch.__version__} cannot export a {family} model: {reason}") from error
    assert program is not None
    found: onnx.ModelProto = program.model_proto
    name_outputs(found.graph, heads)
    for part in (*found.graph.node, *found.graph.value_info, *found.graph.input, *found.graph.output, found.graph):
        part.ClearField("metadata_props")  # source lines and paths of the machine that exported
    return found
