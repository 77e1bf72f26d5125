"""Which engine starts a bundle, where and how: the choice in words, and the engine itself.

An engine's module is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attar.runtime.bundle import Bundle
from attar.runtime.engines.onnx import Engine, OnnxEngine
from attar.runtime.errors import SettingsError

DEVICES: Mapping[str, tuple[str, ...]] = {
    "onnx": ("cpu", "cuda", "tensorrt"),
    "openvino": ("cpu",),
    "tensorrt": ("cuda",),
    "auto": ("cpu", "cuda", "tensorrt"),
}
"""The engines, and where each can run; the first is where it runs unless told otherwise."""


@dataclass(frozen=True)
class Choice:
    """An engine, where it runs (None: its first device), and in which precision (None: the graph's own).

    Raises:
        SettingsError: an unknown engine, or what the engine does not offer.
    """

    engine: str = "onnx"
    device: str | None = None
    precision: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in DEVICES:
            raise SettingsError(f"engine must be one of {', '.join(DEVICES)}, not {self.engine!r}")
        if self.device is not None and self.device not in DEVICES[self.engine]:
            raise SettingsError(
                f"device of {self.engine} must be one of {', '.join(DEVICES[self.engine])}, not {self.device!r}"
            )
        if self.precision is not None and self.engine != "openvino":
            raise SettingsError(
                f"precision is a choice of openvino alone, not of {self.engine}: leave it out"
                + (", or run `attar tensorrt` with --precision" if self.engine == "tensorrt" else "")
            )

    @property
    def words(self) -> str:
        return " ".join([self.engine, *filter(None, (self.device, self.precision))])


def start(choice: Choice, bundle: Bundle, threads: int | None) -> Engine:
    """The engine with the bundle's graph; `SettingsError` and `BundleError` say why it cannot run here.

    `threads`: of engines on the CPU; by default the cores that this process may use.
    """
    contents = bundle.contents
    if choice.engine == "tensorrt":
        from attar.runtime.engines import tensorrt

        return tensorrt.load(contents)
    if choice.engine == "openvino":
        from attar.runtime.engines.openvino import OpenVINOEngine

        return OpenVINOEngine(contents["model.onnx"], threads=threads, precision=choice.precision)
    return OnnxEngine(
        contents["model.onnx"], threads=threads, device=choice.device or "cpu", files=contents,
        oldest=bundle.manifest.requires.get("onnxruntime"),
    )  # fmt: skip


def golden_of(choice: Choice) -> str:
    """The file of the bundle with the golden inputs of what the engine computes."""
    return "tensorrt.golden.json" if choice.engine == "tensorrt" else "golden.json"
