"""What a process and the machine's meters say: peak memory, and energy where it can be read."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def peak_mb(root: Path = Path("/")) -> float | None:
    """The most memory this process has held, in MB (resident; of its own since it started); None where not told.

    Not getrusage's: its figure begins with that of the process which started this one.
    """
    try:
        text = (root / "proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None


@dataclass(frozen=True)
class Meter:
    """A counter of energy: `read` gives microjoules, which begin at 0 again where they have passed `wraps`."""

    name: str
    read: Callable[[], int]
    wraps: int

    def between(self, before: int, after: int) -> float:
        """Joules from one reading to a later one."""
        return ((after - before) if after >= before else (after - before + self.wraps + 1)) / 1e6


def meters(root: Path = Path("/")) -> tuple[list[Meter], str]:
    """Every meter of processors (RAPL) and of NVIDIA GPUs (NVML) that can be read, and in words why there is none."""
    found, hidden = [], 0
    for folder in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        if folder.name.count(":") != 1:  # the parts of a package, which its own counter includes
            continue
        source = folder / "energy_uj"
        try:
            limit = int((folder / "max_energy_range_uj").read_text())
            int(source.read_text())
        except (OSError, ValueError):
            hidden += 1
            continue
        found.append(Meter(folder.name, lambda source=source: int(source.read_text()), limit))  # type: ignore[misc]
    found += _gpus()
    if found:
        return found, ""
    rapl = "RAPL can be read by root alone" if hidden else "there is no RAPL"
    return [], f"energy is unreadable here: {rapl} (/sys/class/powercap), and no GPU tells its own (NVML)"


def _gpus() -> list[Meter]:
    """The GPUs of NVML; none where its library is missing."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    count = ctypes.c_uint()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return []
    found = []
    for number in range(count.value):
        device, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)):
            continue
        if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy)):  # not told before Volta
            continue

        def read(device: ctypes.c_void_p = device) -> int:
            total = ctypes.c_ulonglong()
            nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(total))
            return total.value * 1000  # it counts millijoules

        found.append(Meter(f"GPU {number}", read, 2**64 - 1))
    return found
