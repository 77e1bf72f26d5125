"""Reads the layers of an engine of tensorrt-rtx back, without a GPU.

TensorRT's own inspector wants an engine that is loaded, and to load one takes a GPU's driver. The plans of tensorrt-rtx
1.7 list their layers and tensors as text, which is no documented format: what is not found there is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attar.runtime.errors import SettingsError

TENSOR = re.compile(r"tensor=\{ (?:[^{}\n]|\{[^{}\n]*\})*\}")
NAME, TYPE = re.compile(r' name=(?:"([^"\n]*)"|(\S+))'), re.compile(r" type=(\w+)")
PRODUCT = re.compile(r'fully_connected=\{ name=(?:"[^"\n]*"|\S+)[^\n]*? input=\{([^}\n]*)\}[^\n]*? layers="([^"]*)"')
LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
TYPES: Mapping[str, str] = {"fp32": "float", "fp16": "half", "bf16": "bf16", "int8": "int8", "fp8": "fp8_e4m3"}
"""What plans call a precision."""


def products(engine: bytes) -> dict[str, tuple[str, str]]:
    """The types of the two factors of every matrix product, by the name of its ONNX node."""
    text = engine.decode("latin-1")
    types = {}
    for tensor in TENSOR.findall(text):
        name, kind = NAME.search(tensor), TYPE.search(tensor)
        if name and kind:
            types[name[1] or name[2]] = kind[1]
    found = {}
    for inputs, layers in PRODUCT.findall(text):
        factors = re.findall(r'"([^"]*)"', inputs)[:2]
        for layer in LAYER.findall(layers):
            if len(factors) == 2:
                found[layer] = (types.get(factors[0], "unknown"), types.get(factors[1], "unknown"))
    return found


def confirm(engine: bytes, precision: str, matrices: tuple[str, ...]) -> int:
    """How many of the ONNX nodes of these names the engine computes in the precision; all of them, or an error."""
    found, wanted = products(engine), TYPES[precision]
    for name in matrices:
        if found.get(name) != (wanted, wanted):
            what = " x ".join(found[name]) if name in found else "nowhere to be seen"
            raise SettingsError(
                f"the engine was asked for {precision} and {name} is {what}: another TensorRT may do it"
            )
    return len(matrices)
