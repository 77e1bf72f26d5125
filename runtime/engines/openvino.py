"""OpenVINO on the CPU, by its own reader of ONNX: fp32 and static int8 graphs, in fp32 or in bf16.

Its sums depend on the shape of a batch: in fp32 the same text alone and in a padded batch differs in the last bits
(benchmarks/NOTES.md, "Engines"), so that the promise of equal bits is ONNX Runtime's alone.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.cpu import usable_cores
from attar.runtime.engines.model_file import external_files
from attar.runtime.engines.versions import require_version
from attar.runtime.errors import MissingExtraError, SettingsError
from attar.runtime.tokenizer import Ids

OLDEST = "2026.4"
"""The oldest release that was tried."""
PRECISIONS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16"}
"""What it computes in, and what OpenVINO calls that."""
TELEMETRY = "openvino_telemetry"
WRONG: Mapping[str, str] = dict.fromkeys(("LSTMSequence", "GRUSequence", "RNNSequence"), "recurrent layers")
"""Operators that OpenVINO 2026.4.1 reads and computes wrongly where texts are padded."""
FATAL = frozenset({"i4", "u4"})
"""Weights of these types kill the process at the first call (an integer division by zero, in 2026.4.1)."""
CACHED = 64
"""Kernels kept for shapes that come again; its own 5000 grow beyond a gigabyte where lengths vary."""
REMEDY = 'load the bundle with engine="onnx"'


def import_quietly() -> Any:
    """`import openvino` without its report of use.

    Where the package openvino-telemetry is installed, which pip brings along, the import sends its maker a message over
    the network and keeps a number of this user in the home folder. OpenVINO works without that package, so for as long
    as the import takes it counts as missing here. No setting is changed. What imports openvino first reports as ever.
    """
    before = {name: module for name, module in sys.modules.items() if name == TELEMETRY}
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # what makes an import fail
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise MissingExtraError("openvino", "openvino") from error
    finally:
        del sys.modules[TELEMETRY]
        sys.modules.update(before)
    return openvino


class OpenVINOEngine:
    """A model in OpenVINO, on the cores that this process may use unless `threads` says otherwise.

    `precision`: fp32, what the graph says; or bf16, faster where the processor has it, which no gate has judged.
    """

    at_once = 1  # one stream, which all threads share

    def __init__(self, model: bytes, *, threads: int | None = None, precision: str | None = None) -> None:
        precision = precision or "fp32"
        if precision not in PRECISIONS:
            raise SettingsError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if threads is not None and threads < 1:
            raise SettingsError(f"threads must be at least 1, not {threads}")
        openvino = import_quietly()
        version = str(openvino.__version__).partition("-")[0]
        require_version("attar", "openvino", version, OLDEST)
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise SettingsError("this processor has no bf16, which would only be pretended: leave out precision")
        graph = _read(core, model, f"OpenVINO {version}")
        self._compiled = core.compile_model(graph, "CPU", {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # else every model of a process is bound to the same cores
            "CPU_RUNTIME_CACHE_CAPACITY": CACHED,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else int8 weights take int8 activations, which no gate has seen
        })  # fmt: skip
        self.name = f"openvino {version} (CPU, {precision})"
        self._inputs = {i.get_any_name() for i in self._compiled.inputs}
        self._outputs = [o.get_any_name() for o in self._compiled.outputs]
        self._own = threading.local()

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        if types is None and "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        request = getattr(self._own, "request", None)
        if request is None:  # a request serves one call at a time
            request = self._own.request = self._compiled.create_infer_request()
        found = request.infer({name: value for name, value in feeds.items() if name in self._inputs})
        return {name: found[name] for name in self._outputs}


def _read(core: Any, model: bytes, engine: str) -> Any:
    """The graph as OpenVINO reads it; `SettingsError` where it cannot, or would compute something else."""
    if external_files(model):
        raise SettingsError(f"{engine} takes no weights from beside model.onnx: {REMEDY}")
    try:
        graph = core.read_model(model, b"")
    except Exception as error:  # it raises many types
        unknown = re.findall(r"^-- (\S+) with a message", str(error), re.MULTILINE)
        what = f"does not know {', '.join(unknown)}" if unknown else f"cannot read it: {str(error).strip()[-300:]}"
        raise SettingsError(f"{engine} {what}: {REMEDY}, or quantize with constant scales or not at all") from error
    for node in graph.get_ops():
        if node.get_type_name() in WRONG:
            raise SettingsError(f"{engine} computes {WRONG[node.get_type_name()]} wrongly in padded batches: {REMEDY}")
        if any(output.get_element_type().get_type_name() in FATAL for output in node.outputs()):
            raise SettingsError(f"{engine} does not survive int4 weights: {REMEDY}")
    return graph
