"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attar.runtime.cpu import usable_cores
from attar.runtime.engines.model_file import external_files, refusal
from attar.runtime.errors import BundleError, MissingExtraError, SettingsError
from attar.runtime.tokenizer import Ids


class Engine(Protocol):
    """Numpy arrays in, numpy arrays out."""

    name: str

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        """Token ids, mask and, for pairs, token types (B, T) -> the graph's outputs by name, (B, C) or (B, T, C)."""
        ...


class OnnxEngine:
    """A model in ONNX Runtime, on the cores that this process may use unless `threads` says otherwise.

    `files`: contents by name, from which weights are taken that the model keeps elsewhere; no other file is opened.
    """

    def __init__(
        self, model: bytes, *, threads: int | None = None, device: str = "cpu", files: Mapping[str, bytes] | None = None
    ) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnxruntime", "cpu") from error
        if device != "cpu":
            raise SettingsError(f"device {device!r} is not supported by this version; known: cpu")
        if threads is not None and threads < 1:
            raise SettingsError(f"threads must be at least 1, not {threads}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the other format was not checked
        give_weights(options, model, files or {})
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many unrelated types
            raise BundleError(refusal(error, f"ONNX Runtime {ort.__version__}")) from error
        self.name = f"onnxruntime {ort.__version__} ({', '.join(self._session.get_providers())})"
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._typed = any(i.name == "token_type_ids" for i in self._session.get_inputs())

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._typed:
            feeds["token_type_ids"] = np.zeros_like(ids) if types is None else types
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))


def give_weights(options: Any, model: bytes, files: Mapping[str, bytes]) -> None:
    """Hands a session's options the weights that the model keeps elsewhere; `BundleError` where `files` lack them."""
    import onnxruntime as ort

    wanted = sorted(external_files(model))
    for name in wanted:
        if name not in files:
            raise BundleError(
                f"model.onnx keeps weights in {name!r}, and only files that the bundle's manifest lists may be read; "
                "export the bundle again"
            )
    if wanted and not hasattr(options, "add_external_initializers_from_files_in_memory"):
        raise BundleError(
            f"the bundle keeps weights beside model.onnx, which ONNX Runtime {ort.__version__} cannot take from "
            "memory: pip install 'onnxruntime>=1.24', or export it again with its weights in one file"
        )
    if wanted:
        contents = [files[name] for name in wanted]
        options.add_external_initializers_from_files_in_memory(wanted, contents, [len(c) for c in contents])
