"""A small graph writer: nodes and weights in order, readable names, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from attar.export.onnx.files import check
from attar.runtime.tasks.base import INPUTS
from attar.runtime.version import __version__

OPSET = 21
"""The first whose QuantizeLinear has blocks, by which rows have scales of their own."""
IR_VERSION = 10
MICROSOFT = "com.microsoft"
HALVES: Mapping[str, Any] = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


class Graph:
    """Collects nodes; every call of `op` returns the name of the node's first output.

    `standard`: whether it keeps to the operators of ONNX itself, for engines that know no others.
    """

    def __init__(self, *, standard: bool = False) -> None:
        self.standard = standard
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, value: NDArray[Any]) -> str:
        """Adds an initializer once; a second call by the same name returns the first."""
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def op(self, kind: str, inputs: list[str], name: str, *, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def gelu(self, x: str, name: str) -> str:
        return self.op("Gelu", [x], name, domain="" if self.standard else MICROSOFT)

    def once(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """`op`, or the node that an earlier call wrote under the same name."""
        if any(node.name == name for node in self.nodes):
            return name
        return self.op(kind, inputs, name, **attributes)

    def halve(self, kind: str) -> None:
        """Stores every matrix of floats in fp16 or bf16; a Cast, folded when the engine loads it, makes it fp32."""
        casts = []
        for name, weight in list(self.weights.items()):
            if weight.data_type == TensorProto.FLOAT and len(weight.dims) > 1:
                value = numpy_helper.to_array(weight).astype(HALVES[kind])
                del self.weights[name]
                stored = self.weight(f"{name}.{kind}", value)
                casts.append(helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
        self.nodes[:0] = casts

    def model(self, outputs: dict[str, list[str | int]], doc: str, *, typed: bool = False) -> onnx.ModelProto:
        """The checked model; its inputs, `token_type_ids` only if `typed`, are int64 (batch, length).

        `outputs`: shapes by the names of heads; a head's values are the tensor `output_of` its name.
        """
        shape = ["batch", "length"]
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in INPUTS[: 3 if typed else 2]]
        found = [helper.make_tensor_value_info(output_of(n), TensorProto.FLOAT, s) for n, s in outputs.items()]
        graph = helper.make_graph(self.nodes, "attar", inputs, found, list(self.weights.values()), doc_string=doc)
        name_outputs(graph, outputs)
        opsets = [helper.make_opsetid("", OPSET), *([] if self.standard else [helper.make_opsetid(MICROSOFT, 1)])]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, doc_string=doc,
            producer_name="attar", producer_version=__version__,
        )  # fmt: skip
        check(model)
        return model


def output_of(head: str) -> str:
    """What the values of a head are called until `name_outputs`. The dots keep it apart: no head's name has one."""
    return f"heads.{head}.output"


def name_outputs(graph: onnx.GraphProto, heads: Iterable[str]) -> None:
    """Calls the tensors `output_of` the heads as the heads. Users name these: what is called so already gives way."""
    names = {head: f"inner.{head}" for head in heads} | {output_of(head): head for head in heads}
    for weight in graph.initializer:
        weight.name = names.get(weight.name, weight.name)
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [names.get(name, name) for name in tensors]
