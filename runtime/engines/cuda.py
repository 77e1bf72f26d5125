"""The few calls of the CUDA driver that an engine needs, by ctypes: no package, and a clear word where there is no GPU.

Never run on a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import SettingsError

MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


class Cuda:
    """The first GPU, its primary context and one stream. Pointers and handles are plain numbers."""

    def __init__(self) -> None:
        name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._driver: Any = ctypes.CDLL(name)
        except OSError as error:
            raise SettingsError(
                f"no NVIDIA driver was found here ({name}), and TensorRT runs on NVIDIA GPUs alone: load the bundle "
                'without engine="tensorrt", or run where `attar doctor` names a GPU'
            ) from error
        self._call("cuInit", 0)
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device
        # The primary context is the one that TensorRT's own calls use.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            said = text.value.decode() if text.value else "unknown"
            raise SettingsError(f"the GPU cannot be used: {name} says {code} ({said}); see `attar doctor`")

    def enter(self) -> None:
        """Makes the GPU current in this thread."""
        self._call("cuCtxSetCurrent", self._context)

    @property
    def capability(self) -> str:
        """The compute capability, as `8.6`."""
        found = [ctypes.c_int(), ctypes.c_int()]
        for value, attribute in zip(found, (MAJOR, MINOR), strict=True):
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return f"{found[0].value}.{found[1].value}"

    @property
    def driver(self) -> int:
        """The major version of CUDA that the driver brings."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return version.value // 1000

    def allocate(self, size: int) -> int:
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer.value

    def free(self, pointer: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def upload(self, pointer: int, values: NDArray[Any]) -> None:
        """Copies a contiguous array to the GPU, in the stream's order."""
        source = ctypes.c_void_p(values.ctypes.data)
        size, stream = ctypes.c_size_t(values.nbytes), ctypes.c_void_p(self.stream)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(pointer), source, size, stream)

    def download(self, pointer: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Copies fp32 values back; they are there after `wait`."""
        values = np.empty(shape, np.float32)
        target = ctypes.c_void_p(values.ctypes.data)
        size, stream = ctypes.c_size_t(values.nbytes), ctypes.c_void_p(self.stream)
        self._call("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(pointer), size, stream)
        return values

    def wait(self) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))
