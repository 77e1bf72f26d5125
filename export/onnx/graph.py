"""A small graph writer: nodes and weights in order, readable names, the same bytes every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
MICROSOFT = "com.microsoft"


class Graph:
    """Collects nodes; every call of `op` returns the name of the node's first output."""

    def __init__(self) -> None:
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

    def once(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """`op`, or the node that an earlier call wrote under the same name."""
        if any(node.name == name for node in self.nodes):
            return name
        return self.op(kind, inputs, name, **attributes)

    def model(self, outputs: dict[str, list[str | int]], doc: str, *, typed: bool = False) -> onnx.ModelProto:
        """The checked model; its inputs, `token_type_ids` only if `typed`, are int64 (batch, length)."""
        shape = ["batch", "length"]
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]
        inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in names]
        found = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()]
        graph = helper.make_graph(self.nodes, "attar", inputs, found, list(self.weights.values()), doc_string=doc)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, producer_name="attar", ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model
