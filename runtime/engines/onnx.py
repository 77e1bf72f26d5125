"""ONNX Runtime on the CPU, or by its CUDA or TensorRT provider, neither of which was ever run on a GPU."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from attar.runtime.cpu import usable_cores
from attar.runtime.engines.model_file import external_files, refusal
from attar.runtime.engines.versions import require_version
from attar.runtime.errors import BundleError, ClosedError, MissingExtraError, SettingsError
from attar.runtime.tokenizer import Ids

PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
"""By device those that compute, the first before the second: TensorRT leaves com.microsoft nodes to CUDA."""
SHAPES = frozenset({"Shape", "Size", "Slice", "Gather", "Concat", "Cast", "Squeeze", "Unsqueeze", "ConstantOfShape"})
"""What ONNX Runtime computes on the CPU where it makes shapes, which is right on a GPU too."""
SMALL = 32_000_000
"""Bytes of a model whose threads each compute batches of their own: to share a product between threads takes longer
to arrange than the product itself (benchmarks/NOTES.md)."""


class Engine(Protocol):
    """Numpy arrays in, numpy arrays out."""

    name: str
    at_once: int
    """Batches that are best computed at the same time, by as many threads that call `run`."""

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        """Token ids, mask and, for pairs, token types (B, T) -> the graph's outputs by name, (B, C) or (B, T, C)."""
        ...


class OnnxEngine:
    """A model in ONNX Runtime, on the cores that this process may use unless `threads` says otherwise.

    `files`: contents by name, from which weights are taken that the model keeps elsewhere; no other file is opened.
    `level`: which of ONNX Runtime's own rewritings of the graph are allowed.
    `oldest`: the ONNX Runtime that the model needs, where that is known.
    With one thread it can still be used in a process that was forked while it was idle; else `run` says `ClosedError`.
    """

    def __init__(
        self,
        model: bytes,
        *,
        threads: int | None = None,
        device: str = "cpu",
        files: Mapping[str, bytes] | None = None,
        level: Literal["all", "extended", "basic"] = "all",
        oldest: str | None = None,
    ) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnxruntime", "cpu") from error
        if oldest is not None:
            require_version("the bundle", "onnxruntime", ort.__version__, oldest)
        if device not in PROVIDERS:
            raise SettingsError(f"device must be one of {', '.join(PROVIDERS)}, not {device!r}")
        if threads is not None and threads < 1:
            raise SettingsError(f"threads must be at least 1, not {threads}")
        options = ort.SessionOptions()
        cores = threads or usable_cores()
        small = device == "cpu" and len(model) + sum(map(len, (files or {}).values())) < SMALL
        self.at_once = cores if small else 1
        options.intra_op_num_threads = 1 if small else cores
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")  # the other format was not checked
        give_weights(options, model, files or {})
        if device != "cpu":
            require_provider(ort, device)
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session = ort.InferenceSession(model, options, providers=list(PROVIDERS[device]))
        except Exception as error:  # ONNX Runtime raises many unrelated types
            raise BundleError(refusal(error, f"ONNX Runtime {ort.__version__}")) from error
        if device != "cpu":
            check_placement(self._session, device)
        self.name = f"onnxruntime {ort.__version__} ({', '.join(self._session.get_providers())})"
        self._outputs = [o.name for o in self._session.get_outputs()]
        self._typed = any(i.name == "token_type_ids" for i in self._session.get_inputs())
        self._forks = device == "cpu" and options.intra_op_num_threads == 1  # ONNX Runtime then starts no threads
        self._process = os.getpid()
        self._running: list[int] = []  # the process of each call; a fork copies those that it will never see end

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._typed:
            feeds["token_type_ids"] = np.zeros_like(ids) if types is None else types
        process = os.getpid()
        if process != self._process:
            self._check_fork(process)
        self._running.append(process)
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))
        finally:
            self._running.remove(process)

    def _check_fork(self, process: int) -> None:
        """Refuses what would hang: threads, and the locks of calls in progress, stayed behind at the fork."""
        if not self._forks or any(other != process for other in self._running):
            raise ClosedError(
                "this model belongs to the process that this one was forked from, and its threads stayed there; load "
                "it in each process, or with threads=1, and fork while it computes nothing"
            )
        self._process = process


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


def require_provider(ort: Any, device: str) -> None:
    """Refuses a device that this ONNX Runtime has no provider for."""
    known = {name for names in PROVIDERS.values() for name in names}
    found = [name for name in ort.get_available_providers() if name in known]
    if not set(PROVIDERS[device]) <= set(found):
        raise SettingsError(
            f"device {device!r} was asked for, and this ONNX Runtime has {', '.join(found)} alone: uninstall "
            "onnxruntime and pip install 'attar[gpu]', or load with device=\"cpu\""
        )
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # finds the CUDA libraries that pip installed
            ort.preload_dlls()


def check_placement(session: Any, device: str) -> None:
    """Refuses a session that does not compute on the device: ONNX Runtime falls back to the CPU without a word."""
    wanted = PROVIDERS[device]
    if wanted[0] not in session.get_providers():
        raise SettingsError(
            f"device {device!r} was asked for, and the session runs on {', '.join(session.get_providers())}: see what "
            "`attar doctor` says of the GPU"
        )
    placed = getattr(session, "get_provider_graph_assignment_info", None)
    if placed is None:
        raise SettingsError(f"this ONNX Runtime does not tell what runs on {device!r}: upgrade onnxruntime-gpu")
    nodes = [(node.name, node.op_type, part.ep_name) for part in placed() for node in part.get_nodes()]
    elsewhere = misplaced(nodes, wanted)
    if elsewhere:
        shown = ", ".join(elsewhere[:3]) + (" ..." if len(elsewhere) > 3 else "")
        raise SettingsError(
            f"device {device!r} was asked for, and {len(elsewhere)} nodes would run on the CPU ({shown}): export "
            'without int8, whose operators the CPU alone has, or load with device="cpu"'
        )
    if all(place != wanted[0] for _, _, place in nodes):
        raise SettingsError(
            f'device {device!r} was asked for, and TensorRT would take no node: load with device="cuda", or give the '
            'bundle a graph of its own by `attar tensorrt` and load it with engine="tensorrt"'
        )


def misplaced(nodes: Iterable[tuple[str, str, str]], providers: Sequence[str]) -> list[str]:
    """Of nodes (name, operator, provider), those that compute more than shapes, and somewhere else."""
    return [f"{name} ({kind})" for name, kind, place in nodes if place not in providers and kind not in SHAPES]
