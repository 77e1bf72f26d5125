"""`attar doctor`: what is installed, what really works, and what this processor is good for.

An engine counts as working only after it has run a graph: what a package lists as available may still fail.
"""

import argparse
import base64
import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

HELP = "Say what is installed, which engines really work here, and what this processor is good for."
EXAMPLE = "attar doctor --json"

PACKAGES = {
    "base": ("numpy", "tokenizers"),
    "cpu": ("onnxruntime",),
    "gpu": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt", "tensorrt-rtx"),
    "openvino": ("openvino",),
    "train": ("torch", "transformers", "onnx", "onnxscript", "safetensors", "pyarrow", "matplotlib"),
    "serve": ("starlette", "uvicorn", "grpcio", "protobuf"),
}
# y = x + x on two floats, IR version 8, opset 17: the smallest model that has to be computed.
PROBE = base64.b64decode("CAgSADo5Cg4KAXgKAXgSAXkiA0FkZBIFcHJvYmVaDwoBeBIKCggIARIECgIIAmIPCgF5EgoKCAgBEgQKAggCQgQKABAR")
REMOTE = "AzureExecutionProvider"  # computes on a service elsewhere, which attar never does


@dataclass(frozen=True)
class Check:
    """The verdict on one engine."""

    name: str
    works: bool
    detail: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `attar doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 0 when at least one engine works here, else 1."""
    from attar.runtime.cpu import instruction_sets, machine

    packages = installed()
    checks = check_engines()
    findings = {
        "machine": machine(),
        "int8": int8_outlook(instruction_sets()),
        "gpus": gpu_names(),
        "packages": packages,
        "engines": [asdict(check) for check in checks],
        "warnings": conflicts(packages),
    }
    print(json.dumps(findings) if args.json else _table(findings, checks))
    return 0 if any(check.works for check in checks) else 1


def installed() -> dict[str, dict[str, str | None]]:
    """Versions of the packages of each extra; None where a package is not installed."""
    return {extra: {name: _version(name) for name in names} for extra, names in PACKAGES.items()}


def conflicts(packages: dict[str, dict[str, str | None]]) -> list[str]:
    """Installations that cannot be right, one sentence each."""
    if packages["cpu"]["onnxruntime"] and packages["gpu"]["onnxruntime-gpu"]:
        return [
            "onnxruntime and onnxruntime-gpu share one folder and the last one installed has overwritten "
            "the other: uninstall both, then install the one you want"
        ]
    return []


def check_engines() -> list[Check]:
    """Try every engine that is installed, each on a graph of its own."""
    checks = _attempt("onnxruntime", _check_onnxruntime)
    for name in ("tensorrt", "tensorrt_rtx"):
        checks += _attempt(name, _check_tensorrt)
    return checks + _attempt("openvino", _check_openvino, _import_openvino)


def _import_openvino(name: str) -> Any:
    """OpenVINO without its report of use; nothing of it where it is not installed."""
    from attar.runtime.engines.openvino import import_quietly

    return import_quietly() if importlib.util.find_spec(name) else importlib.import_module(name)


def _attempt(
    name: str, check: Callable[[ModuleType], list[Check]], load: Callable[[str], Any] | None = None
) -> list[Check]:
    """Import one engine and check it; nothing where it is not installed, and any failure is its verdict."""
    try:
        return check((load or importlib.import_module)(name))
    except ModuleNotFoundError as error:
        return [] if error.name == name else [Check(name, False, _first_line(error))]
    except Exception as error:  # a broken engine raises what it likes; the doctor reports it and goes on
        return [Check(name, False, _first_line(error))]


def _check_onnxruntime(ort: ModuleType) -> list[Check]:
    """One verdict a provider that onnxruntime lists as available, in onnxruntime's order of preference."""
    providers = [name for name in ort.get_available_providers() if name != REMOTE]
    if "CUDAExecutionProvider" in providers and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # finds the CUDA libraries that pip installed
            ort.preload_dlls()
    return [_check_provider(ort, provider) for provider in providers]


def _check_provider(ort: Any, provider: str) -> Check:
    """Run the probe on one provider, with the silent way back to the CPU closed."""
    import numpy as np

    name = f"onnxruntime {provider.removesuffix('ExecutionProvider')}"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(PROBE, options, providers=[provider])
        taken = session.get_providers()
        (result,) = session.run(None, {"x": np.array([1.0, 2.0], dtype=np.float32)})
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        return Check(name, False, f"listed as available, but: {_first_line(error)}")
    if provider not in taken:
        return Check(name, False, f"listed as available, but the session runs on {', '.join(taken)}")
    if result.tolist() != [2.0, 4.0]:
        return Check(name, False, f"computed [1, 2] + [1, 2] = {result.tolist()}")
    return Check(name, True, f"{ort.__version__}, ran a graph")


def _check_tensorrt(trt: ModuleType) -> list[Check]:
    """Whether TensorRT (or TensorRT for RTX) has a GPU to run on; it builds engines without one."""
    gpus = gpu_names()
    where = f"on {gpus[0]}" if gpus else "can build engines, but finds no GPU to run them on"
    return [Check(trt.__name__, bool(gpus), f"{trt.__version__}, {where}")]


def _check_openvino(openvino: Any) -> list[Check]:
    """Run the probe on the CPU."""
    import numpy as np

    core, version = openvino.Core(), str(openvino.__version__).partition("-")[0]
    found = core.compile_model(core.read_model(PROBE, b""), "CPU")({"x": np.array([1.0, 2.0], dtype=np.float32)})
    result = found["y"].tolist()
    if result != [2.0, 4.0]:
        return [Check("openvino CPU", False, f"computed [1, 2] + [1, 2] = {result}")]
    offers = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bf16 = "fp32 and bf16" if "BF16" in offers else "fp32; the processor has no bf16"
    return [Check("openvino CPU", True, f"{version}, ran a graph, {bf16}")]


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver lets this process use; empty without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    name = ctypes.create_string_buffer(128)
    names = []
    for ordinal in range(count.value):
        if cuda.cuDeviceGetName(name, len(name), ordinal) == 0:  # a device's handle is its ordinal
            names.append(name.value.decode(errors="replace"))
    return names


def int8_outlook(flags: frozenset[str]) -> str:
    """What the instruction sets of a processor mean for int8, in a sentence."""
    if "amx_int8" in flags:
        return "AMX: int8 matrix tiles; int8 is much faster than float32"
    if {"avx512_vnni", "avx_vnni"} & flags:
        return "VNNI: int8 dot products in one instruction; int8 is faster than float32"
    if {"avx512f", "avx2"} & flags:
        return (
            "no VNNI: int8 dot products take several instructions and can saturate at 16 bits on the way; "
            "the gain is small and accuracy may suffer: trust the gate and `attar bench`"
        )
    if "i8mm" in flags:
        return "I8MM: int8 matrix products in one instruction; int8 is much faster than float32"
    if "asimddp" in flags:
        return "dot-product instructions: int8 is faster than float32"
    return "no int8 instructions found: expect smaller files, not more speed"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _table(findings: dict[str, Any], checks: list[Check]) -> str:
    """The findings for people."""
    machine = findings["machine"]
    lines = [
        f"processor   {machine['cpu']}, {machine['cores']} usable cores",
        f"            {machine['instruction_sets'] or 'no relevant instruction sets found'}",
        f"int8        {findings['int8']}",
        f"gpu         {', '.join(findings['gpus']) or 'none'}",
        f"system      {machine['os']}, Python {machine['python']}",
        "",
    ]
    for extra, versions in findings["packages"].items():
        shown = ", ".join(f"{name} {version or '-'}" for name, version in versions.items())
        lines.append(f"{extra:<11} {shown}")
    lines.append("")
    for check in checks:
        lines.append(f"{'works' if check.works else 'FAILS':<11} {check.name}: {check.detail}")
    if not checks:
        lines.append("no engine is installed: pip install 'attar[cpu]', or 'attar[gpu]' for an NVIDIA GPU")
    lines += [f"WARNING     {warning}" for warning in findings["warnings"]]
    return "\n".join(lines)
