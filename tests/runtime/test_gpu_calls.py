"""What is asked of the CUDA driver and of TensorRT, on stand-ins for both that live in this process's memory."""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attar.runtime.engines import cuda as module
from attar.runtime.engines.cuda import Cuda
from attar.runtime.engines.plans import Key
from attar.runtime.engines.profiles import Profile
from attar.runtime.engines.tensorrt import TensorRTEngine
from attar.runtime.errors import SettingsError

PROFILES = (Profile(1, 4, 8, (4, 3)), Profile(5, 16, 2, (1, 8)))
KEY = Key("tensorrt", "11.4", "8.9", 13, "fp16", "0123abcd")


class Driver:
    """The driver's calls on the host's memory; `refuses` names one that fails."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.memory: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        does = vars(Driver).get(f"do_{name}", lambda *_: 0)
        return lambda *given: 100 if name == self.refuses else does(self, *given) or 0

    def do_cuGetErrorString(self, code: int, text: Any) -> None:  # noqa: N802  the driver's names
        text._obj.value = b"no CUDA-capable device is detected"

    def do_cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[attribute]

    def do_cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = 13010

    def do_cuMemAlloc_v2(self, pointer: Any, size: Any) -> None:  # noqa: N802
        room = ctypes.create_string_buffer(size.value)
        pointer._obj.value = ctypes.addressof(room)
        self.memory[pointer._obj.value] = room

    def do_cuMemFree_v2(self, pointer: Any) -> None:  # noqa: N802
        del self.memory[pointer.value]

    def do_cuMemcpyHtoDAsync_v2(self, pointer: Any, source: Any, size: Any, stream: Any) -> None:  # noqa: N802
        assert size.value <= len(self.memory[pointer.value])
        ctypes.memmove(pointer.value, source, size.value)

    def do_cuMemcpyDtoHAsync_v2(self, target: Any, pointer: Any, size: Any, stream: Any) -> None:  # noqa: N802
        assert size.value <= len(self.memory[pointer.value])
        ctypes.memmove(target, pointer.value, size.value)


class Context:
    """Gives each row the sums of its ids and of its mask."""

    active_optimization_profile = 0

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return PROFILES[self.active_optimization_profile].holds(*shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shapes["input_ids"][0], 2)

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self.addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        shape = self.shapes["input_ids"]
        ids, mask = (
            np.ctypeslib.as_array((ctypes.c_int64 * int(np.prod(shape))).from_address(self.addresses[n])).reshape(shape)
            for n in ("input_ids", "attention_mask")
        )
        target = (ctypes.c_float * (2 * shape[0])).from_address(self.addresses["logits"])
        target[:] = np.stack([ids.sum(1), mask.sum(1)], 1).astype(np.float32).flatten().tolist()
        return True


def fake_tensorrt(engine: Any) -> Any:
    trt: Any = ModuleType("tensorrt")
    trt.TensorIOMode = SimpleNamespace(INPUT="input")
    trt.ILogger = type("ILogger", (), {"__init__": lambda self: None})
    trt.Runtime = lambda log: SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    return trt


def fake_engine(context: Context) -> Any:
    names = ("input_ids", "attention_mask", "logits")
    return SimpleNamespace(
        create_execution_context=lambda: context, num_io_tensors=3, get_tensor_name=names.__getitem__,
        get_tensor_mode=lambda name: "output" if name == "logits" else "input",
    )  # fmt: skip


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: made)
    return made


def test_batches_of_growing_sizes(driver: Driver) -> None:
    context, cuda = Context(), Cuda()
    assert (cuda.capability, cuda.driver) == ("8.9", 13)
    engine = TensorRTEngine(fake_tensorrt(fake_engine(context)), cuda, b"", PROFILES, KEY)
    for shape, profile in (((1, 3), 0), ((8, 4), 0), ((2, 16), 1), ((1, 2), 0)):
        ids = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        # Not contiguous: what is copied must be.
        found = engine.run(np.asfortranarray(ids), np.ones_like(ids))
        assert found["logits"].tolist() == [[float(row.sum()), float(shape[1])] for row in ids]
        assert context.active_optimization_profile == profile
    assert len(driver.memory) == 3  # smaller ones were given back
    with pytest.raises(SettingsError, match="3 rows of 5 tokens is larger than the engine's 2"):
        engine.run(np.ones((3, 5), np.int64), np.ones((3, 5), np.int64))
    assert "tensorrt 11.4 (compute capability 8.9, fp16)" in engine.name


def test_refusals(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    with pytest.raises(SettingsError, match=r"tensorrt 11.4 cannot load the engine tensorrt-11.4-sm89-cuda13-fp16"):
        TensorRTEngine(fake_tensorrt(None), Cuda(), b"", PROFILES, KEY)
    context = Context()
    monkeypatch.setattr(context, "execute_async_v3", lambda stream: False)
    engine = TensorRTEngine(fake_tensorrt(fake_engine(context)), Cuda(), b"", PROFILES, KEY)
    with pytest.raises(SettingsError, match="refuses the run"):
        engine.run(np.ones((1, 2), np.int64), np.ones((1, 2), np.int64))
    driver.refuses = "cuInit"
    with pytest.raises(SettingsError, match=r"cuInit says 100 \(no CUDA-capable device is detected\)"):
        Cuda()
