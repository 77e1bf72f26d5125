"""Our graph with the inputs and outputs that classes of transformers expect."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tasks.regression import Regression

SUFFIXES: Mapping[str, str] = {
    "text-classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "embeddings": "Model",
}
"""How the class of a task is called, behind the name of the family."""


def affine(task: Task) -> tuple[float, float]:
    """What logits are multiplied by and what is then added, so that they need no temperature and no unit."""
    if isinstance(task, TextClassification):
        return 1 / task.temperature, 0.0
    return (task.scale, task.mean) if isinstance(task, Regression) else (1.0, 0.0)


def adapted(model: bytes, task: Task) -> tuple[bytes, str]:
    """The graph with outputs as transformers names and means them, and in words what was done; often nothing.

    A temperature, or the mean and scale of a regression, become two nodes; spans become `start_logits` and
    `end_logits`; embeddings get the states that they are pooled from as a further output, `last_hidden_state`.
    """
    scale, shift = affine(task)
    if (scale, shift) == (1.0, 0.0) and not isinstance(task, QuestionAnswering | Embedding):
        return model, ""
    found = onnx.load_from_string(model)
    if isinstance(task, QuestionAnswering):
        _split(found.graph)
        done = "its output is split into two"
    elif isinstance(task, Embedding):
        _show_states(found.graph, task)
        done = "the states that vectors are pooled from are a further output"
    else:
        _scale(found.graph, scale, shift)
        done = f"its logits are multiplied by {scale:.6g}" + (f", and {shift:.6g} is added" if shift else "")
    onnx.checker.check_model(found)
    return bytes(found.SerializeToString(deterministic=True)), done


def typed(model: bytes) -> bool:
    """Whether the graph reads token types."""
    return any(i.name == "token_type_ids" for i in onnx.load_from_string(model).graph.input)


def _free(graph: onnx.GraphProto, name: str) -> str:
    """Renames the output `name` within the graph, and returns what it is called then."""
    inner = f"attar.{name}"
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [inner if tensor == name else tensor for tensor in tensors]
    return inner


def _weight(graph: onnx.GraphProto, name: str, value: object, kind: type) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    return name


def _scale(graph: onnx.GraphProto, scale: float, shift: float) -> None:
    inner = _free(graph, "logits")
    weights = [_weight(graph, f"attar.{n}", v, np.float32) for n, v in (("scale", scale), ("shift", shift))]
    graph.node.append(helper.make_node("Mul", [inner, weights[0]], ["attar.scaled"], name="attar.scaled"))
    graph.node.append(helper.make_node("Add", ["attar.scaled", weights[1]], ["logits"], name="logits"))


def _split(graph: onnx.GraphProto) -> None:
    inner = _free(graph, "logits")
    names = ["start_logits", "end_logits"]
    axis = _weight(graph, "attar.axis", [2], np.int64)
    parts = [f"attar.{name}" for name in names]
    graph.node.append(helper.make_node("Split", [inner], parts, name="attar.spans", axis=2, num_outputs=2))
    del graph.output[:]
    for name, part in zip(names, parts, strict=True):
        graph.node.append(helper.make_node("Squeeze", [part, axis], [name], name=name))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length"]))


def _show_states(graph: onnx.GraphProto, task: Embedding) -> None:
    found = [m for node in graph.node for n in node.output if (m := re.fullmatch(r"layers\.(\d+)\.result", n))]
    if not found:
        raise SettingsError("only embeddings of a transformer can be put so: this network has no states of tokens")
    padded = any("states" in node.output for node in graph.node)
    last = "states" if padded else max(found, key=lambda match: int(match[1]))[0]
    rows = 1 if task.pooling == "cls" else "length"  # of the last layer only the row that is read is there
    graph.node.append(helper.make_node("Identity", [last], ["last_hidden_state"], name="last_hidden_state"))
    shape = ["batch", rows, task.dimensions]
    graph.output.append(helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape))
