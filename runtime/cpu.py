"""What the processor can do, and how much of it this process may use.

A container usually sees every core of its host but may use only a few of them; an engine that starts a thread
for each visible core then runs slower than with fewer. `usable_cores` counts what the process really has.
"""

import math
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

# Flags of /proc/cpuinfo that decide how fast int8 and bfloat16 run, on x86-64 and on aarch64.
RELEVANT = frozenset(
    {
        "avx2",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "avx512_bf16",
        "amx_int8",
        "amx_bf16",
        "asimddp",
        "bf16",
        "i8mm",
        "sve",
    }
)


def usable_cores(root: Path = Path("/")) -> int:
    """Count the cores this process may use: its affinity, and no more than its cgroup's quota rounded up.

    root is where /proc and /sys are looked for; tests put a made-up tree there.
    """
    return max(1, min([_affinity(), *(math.ceil(quota) for quota in _quotas(root))]))


def _affinity() -> int:
    """The cores the scheduler may give this process, or all of them on systems without affinity masks."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """Every quota that binds this process, in cores: its own cgroup's and its ancestors'."""
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            yield from _walk(mount, group, _quota_v2)
        elif "cpu" in controllers.split(","):
            for name in {controllers, "cpu"}:
                yield from _walk(mount / name, group, _quota_v1)


def _walk(mount: Path, group: str, quota_of: Callable[[Path], float | None]) -> Iterator[float]:
    """The quotas of a cgroup and of every ancestor up to the mount point, where they are set.

    Inside a container the group's path is often the host's and not visible; the mount point is then the
    container's own group, and it is always looked at.
    """
    parts = [part for part in group.split("/") if part]
    if ".." in parts:  # the group lies outside the mounted tree
        parts = []
    for depth in range(len(parts), -1, -1):
        quota = quota_of(mount.joinpath(*parts[:depth]))
        if quota is not None:
            yield quota


def _quota_v2(folder: Path) -> float | None:
    """Quota in cores from `cpu.max`: "max 100000" (none) or "150000 100000"."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_v1(folder: Path) -> float | None:
    """Quota in cores from `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`."""
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        microseconds, per = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return microseconds / per if microseconds > 0 and per > 0 else None


def instruction_sets(root: Path = Path("/")) -> frozenset[str]:
    """Which of the RELEVANT instruction sets this processor has; empty without a /proc/cpuinfo."""
    flags = _cpuinfo(root, "flags") or _cpuinfo(root, "Features")
    return RELEVANT & frozenset(flags.split())


def machine(root: Path = Path("/")) -> dict[str, str | int]:
    """Name the machine that a number was measured on: processor, cores, instruction sets, system, Python."""
    model = _cpuinfo(root, "model name") or platform.processor() or platform.machine()
    return {
        "cpu": model,
        "cores": usable_cores(root),
        "instruction_sets": " ".join(sorted(instruction_sets(root))),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpuinfo(root: Path, key: str) -> str:
    """The first value of a key in /proc/cpuinfo, or an empty string."""
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read(path: Path) -> str:
    """The text of a file of the kernel's, or an empty string where there is none to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
