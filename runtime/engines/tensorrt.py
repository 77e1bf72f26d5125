"""TensorRT, or TensorRT for RTX, on the first NVIDIA GPU. Never run on a GPU: written by the documentation.

A bundle that `attar tensorrt` has been at holds

    tensorrt.onnx   the model in standard operators, typed as it is computed
    tensorrt.json   precision, profiles, and what each engine was built for
    tensorrt.golden.json   golden inputs, and what tensorrt.onnx gives for them on a CPU
    *.engine        engines built ahead of time
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.cache import cache_folder
from attar.runtime.engines import plans
from attar.runtime.engines.cuda import Cuda
from attar.runtime.engines.plans import Key
from attar.runtime.engines.profiles import Profile, choose, digest
from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.tokenizer import Ids

MODEL, RECORD, GOLDEN = "tensorrt.onnx", "tensorrt.json", "tensorrt.golden.json"


def load(contents: Mapping[str, bytes]) -> TensorRTEngine:
    """The engine of a bundle that fits this machine; where none does, one is built, with a warning."""
    precision, profiles, keys = read_record(contents)
    trt, cuda = plans.flavour(), Cuda()
    # Engines of tensorrt-rtx are finished by the driver that runs them, so they fit any.
    driver = None if plans.capabilities(trt) else cuda.driver
    wanted = Key(trt.__name__, trt.__version__, cuda.capability, driver, precision, digest(profiles))
    shipped = {key: contents[key.file] for key in keys}
    found = plans.fitting(trt, contents[MODEL], wanted, profiles, shipped=shipped, cache=cache_folder())
    return TensorRTEngine(trt, cuda, found, profiles, wanted)


def read_record(contents: Mapping[str, bytes]) -> tuple[str, tuple[Profile, ...], tuple[Key, ...]]:
    """Precision, profiles, and the keys of the engines that a bundle holds."""
    missing = [name for name in (MODEL, RECORD, GOLDEN) if name not in contents]
    if missing:
        raise BundleError(f"the bundle lists no {missing[0]}: `attar tensorrt` adds what TensorRT needs")
    try:
        record = json.loads(contents[RECORD])
        profiles = tuple(Profile.from_json(p) for p in record["profiles"])
        keys = tuple(Key(**key) for key in record["engines"])
        precision = str(record["precision"])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{RECORD} cannot be read: {error!r}. Run `attar tensorrt` again") from error
    lost = [key.file for key in keys if key.file not in contents]
    if lost:
        raise BundleError(f"{RECORD} names {lost[0]}, which the bundle does not list. Run `attar tensorrt` again")
    return precision, profiles, keys


class TensorRTEngine:
    """One engine with one context: calls from several threads take turns."""

    at_once = 1

    def __init__(self, trt: Any, cuda: Cuda, engine: bytes, profiles: Sequence[Profile], key: Key) -> None:
        self._cuda, self._profiles = cuda, tuple(profiles)
        self._lock = threading.Lock()
        self._runtime = trt.Runtime(plans.logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            said = "; ".join(plans.logger(trt).messages[-1:]) or "it does not say why"
            raise SettingsError(f"{key.flavour} {key.version} cannot load the engine {key.file}: {said}")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._typed = "token_type_ids" in inputs
        self._outputs = [n for n in names if n not in inputs]
        self._buffers: dict[str, tuple[int, int]] = {}
        self.name = f"{key.flavour} {key.version} (compute capability {key.capability}, {key.precision})"

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        feeds = {"input_ids": ids, "attention_mask": mask}
        if self._typed:
            feeds["token_type_ids"] = np.zeros_like(ids) if types is None else types
        profile = choose(self._profiles, *ids.shape)
        with self._lock:
            self._cuda.enter()
            if profile != self._context.active_optimization_profile:
                self._must(self._context.set_optimization_profile_async(profile, self._cuda.stream), "profile")
            # The copies are only queued: the arrays must live until `wait`.
            feeds = {name: np.ascontiguousarray(values, dtype=np.int64) for name, values in feeds.items()}
            for name, values in feeds.items():
                self._must(self._context.set_input_shape(name, values.shape), f"shape {values.shape}")
                self._cuda.upload(self._buffer(name, values.nbytes), values)
            shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
            for name, shape in shapes.items():
                self._buffer(name, 4 * int(np.prod(shape)))
            self._must(self._context.execute_async_v3(self._cuda.stream), "run")
            found = {name: self._cuda.download(self._buffers[name][0], shape) for name, shape in shapes.items()}
            self._cuda.wait()
        return found

    def _buffer(self, name: str, size: int) -> int:
        """Memory of a tensor on the GPU, at least so many bytes."""
        pointer, room = self._buffers.get(name, (0, 0))
        if room < size:
            if pointer:
                self._cuda.free(pointer)
            pointer = self._cuda.allocate(size)
            self._buffers[name] = pointer, size
        self._must(self._context.set_tensor_address(name, pointer), f"address of {name}")
        return pointer

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise SettingsError(f"{self.name} refuses the {what}; see `attar doctor`")
