"""Where an exported graph departs from PyTorch: the first value, in the order of its nodes, that both compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attar.distill.batches import Batch, batches
from attar.distill.encoder import LowRank
from attar.distill.student import Student
from attar.distill.watch import watched
from attar.runtime.engines.onnx import give_weights
from attar.runtime.tokenizer import Encoded

NORMS = {"embedding_norm": "embeddings", "attention_norm": "attended", "ffn_norm": "result"}
"""What the outputs of LayerNorms are called in the graph; those of all other modules are called as the modules."""


def departure(student: Student, files: Mapping[str, bytes], encoded: Encoded, tolerance: float) -> str:
    """One sentence that names the first node whose values depart from PyTorch's by more than `tolerance`, relative to
    the largest of them (at least 1), and the last that agrees; empty where no value that both compute departs."""
    graph = onnx.load_from_string(files["model.onnx"]).graph
    kinds = {name: node.op_type for node in graph.node for name in node.output}
    modules = {value_of(name): name for name, _ in student.encoder.named_modules() if name}
    shared = [name for name in kinds if name in modules]
    if not shared:  # a graph of another exporter's names
        return ""
    session = _session(files, shared)
    read = {value.name for value in session.get_inputs()}
    for batch in batches(encoded, student.pad_id, 32):
        with torch.no_grad(), watched(student.encoder, [modules[name] for name in shared]) as inner:
            student.encoder(*batch.inputs)
        feeds = {name: values for name, values in _feeds(batch).items() if name in read}
        found, before = session.run(shared, feeds), "the inputs"
        for name, values in zip(shared, found, strict=True):
            module = modules[name]
            if module not in inner:  # a table that is read without a call, such as the positions
                continue
            wanted = _wanted(inner[module], student.encoder.get_submodule(module), kinds[name])
            error = _error(values, wanted, batch.mask.numpy().astype(bool))
            if not error <= tolerance:
                return f"The first inner value that departs is {name} ({kinds[name]}), by {error:.2g}, after {before}"
            before = f"{name} ({kinds[name]}), which agrees"
    return ""


def _session(files: Mapping[str, bytes], names: Sequence[str]) -> ort.InferenceSession:
    """The graph with the named values among its outputs, and no node fused away."""
    proto = onnx.load_from_string(files["model.onnx"])
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names if n not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    give_weights(options, files["model.onnx"], files)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _feeds(batch: Batch) -> dict[str, NDArray[np.int64]]:
    feeds = {"input_ids": batch.ids.numpy(), "attention_mask": batch.mask.numpy()}
    return feeds if batch.types is None else {**feeds, "token_type_ids": batch.types.numpy()}


def value_of(module: str) -> str:
    """What a module's output is called in the graph."""
    parent, _, last = module.rpartition(".")
    return ".".join(filter(None, [parent, NORMS.get(last, last)]))


def _wanted(output: Tensor, module: nn.Module, kind: str) -> NDArray[np.float32]:
    """What the node should hold: the graph adds the bias of a matrix where it is cheapest, not at its product."""
    module = module.up if isinstance(module, LowRank) else module
    bias = module.bias if isinstance(module, nn.Linear) and kind in ("MatMul", "Mul") else None
    result: NDArray[np.float32] = (output if bias is None else output - bias).detach().float().numpy()
    return result


def _error(found: NDArray[np.float32], wanted: NDArray[np.float32], real: NDArray[np.bool_]) -> float:
    """Over real tokens alone, where there are tokens; the graph mostly holds no others."""
    if wanted.shape[:2] == real.shape and found.shape == (real.sum(), *wanted.shape[2:]):
        wanted = wanted[real]
    if found.shape != wanted.shape:
        return float("inf")
    if found.shape[:2] == real.shape:
        found, wanted = found[real], wanted[real]
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
