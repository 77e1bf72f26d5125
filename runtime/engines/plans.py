"""TensorRT's engine files: what each one is for, building them, and keeping those that fit a machine.

One code path for `tensorrt` 10 and 11 and for `tensorrt-rtx`, whose builder needs no GPU. Networks are strongly typed:
every precision is that of the ONNX file. Of these flavours only tensorrt-rtx 1.7 was tried, and only its builder.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attar.runtime.cache import keep
from attar.runtime.engines.profiles import Profile
from attar.runtime.errors import MissingExtraError, SettingsError

FLAVOURS = ("tensorrt", "tensorrt_rtx")
"""Modules of one shape; the first that is installed is taken."""
NEEDS: Mapping[str, tuple[int, int]] = {"bf16": (8, 0), "fp8": (8, 9)}
"""The least compute capability of a precision, where not all have it."""
log = logging.getLogger("attar.tensorrt")


@dataclass(frozen=True)
class Key:
    """What an engine was built for. `capability`: of the GPU, as `8.6`; `driver`: the major version of CUDA that it
    brings, None where that does not matter; `profile`: `profiles.digest`."""

    flavour: str
    version: str
    capability: str
    driver: int | None
    precision: str
    profile: str

    @property
    def file(self) -> str:
        driver = "any" if self.driver is None else self.driver
        parts = (self.flavour, self.version, f"sm{self.capability.replace('.', '')}", f"cuda{driver}")
        return "-".join((*parts, self.precision, f"{self.profile}.engine"))

    def unlike(self, wanted: Key) -> str:
        """What keeps this engine from being the wanted one; empty where nothing does."""
        names = {
            "flavour": "module", "version": "version", "capability": "compute capability", "driver": "CUDA driver",
            "precision": "precision", "profile": "profiles",
        }  # fmt: skip
        mine, theirs = asdict(self), asdict(wanted)
        return ", ".join(
            f"{title} {mine[name]} instead of {theirs[name]}"
            for name, title in names.items()
            if mine[name] != theirs[name] and not (name == "driver" and self.driver is None)
        )


def flavour() -> Any:
    """The module of TensorRT, or of TensorRT for RTX."""
    for name in FLAVOURS:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    raise MissingExtraError("tensorrt-rtx", "tensorrt")


def capabilities(trt: Any) -> tuple[str, ...]:
    """Those that the module builds for without such a GPU; none where it builds for the GPU at hand alone."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    return tuple(f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM"))


def check_capability(trt: Any, capability: str, precision: str) -> None:
    """Refuses what the module cannot build, or the GPU not compute."""
    known = capabilities(trt)
    if known and capability not in known:
        raise SettingsError(
            f"{trt.__name__} {trt.__version__} builds no engine for compute capability {capability!r}; known: "
            f"{', '.join(known)}"
        )
    least = NEEDS.get(precision, (0, 0))
    if tuple(int(part) for part in capability.split(".")) < least:
        raise SettingsError(
            f"{precision} needs a GPU of compute capability {least[0]}.{least[1]} or more, not {capability}: choose "
            "fp16, or leave this GPU out"
        )


@functools.cache
def logger(trt: Any) -> Any:
    """The module's one logger; it keeps what is an error."""

    class Errors(trt.ILogger):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.messages.append(message)

    return Errors()


def build(trt: Any, model: bytes, key: Key, profiles: Sequence[Profile], timings: Path) -> bytes:
    """An engine for the key; the folder `timings` keeps what the builder has measured, to build faster next time."""
    check_capability(trt, key.capability, key.precision)
    errors = logger(trt)
    errors.messages.clear()
    builder = trt.Builder(errors)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, errors)
    if not parser.parse(model):
        raise SettingsError(_failed(trt, "cannot read the ONNX file", [str(parser.get_error(0))]))
    config = _configure(trt, builder, network, key, profiles)
    kept = timings / f"{key.flavour}-{key.version}-sm{key.capability.replace('.', '')}.timings"
    # What builds without a GPU measures nothing.
    measures = not capabilities(trt)
    if measures:
        _take_timings(config, kept)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise SettingsError(_failed(trt, f"cannot build {key.precision} for {key.capability}", errors.messages))
    if measures:
        keep(kept, bytes(memoryview(config.get_timing_cache().serialize())))
    return bytes(memoryview(built))


def _take_timings(config: Any, kept: Path) -> None:
    """Gives the builder what an earlier one has measured; where it is of no use to this one, nothing."""
    known = kept.read_bytes() if kept.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _failed(trt: Any, what: str, messages: Sequence[str]) -> str:
    return f"{trt.__name__} {trt.__version__} {what}: {messages[0] if messages else 'it does not say why'}"


def _configure(trt: Any, builder: Any, network: Any, key: Key, profiles: Sequence[Profile]) -> Any:
    """What the engine is for."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if key.precision == "fp32":
        # Left on, products would lose 13 of 23 bits.
        config.clear_flag(trt.BuilderFlag.TF32)
    if capabilities(trt):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{key.capability.replace('.', '')}"), 0)
    for profile in profiles:
        ranges = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            ranges.set_shape(
                network.get_input(i).name, (1, profile.least), profile.usual, (profile.batch, profile.longest)
            )
        config.add_optimization_profile(ranges)
    return config


def fitting(
    trt: Any, model: bytes, wanted: Key, profiles: Sequence[Profile], *, shipped: Mapping[Key, bytes], cache: Path
) -> bytes:
    """A shipped engine that is the wanted one, else one that was built here before, else a new one, and says so."""
    for key, engine in shipped.items():
        if not key.unlike(wanted):
            return engine
    folder = cache / "engines" / hashlib.sha256(model).hexdigest()[:16]
    kept = _kept(folder, wanted)
    if kept is not None:
        return kept
    log.warning(
        "no engine of this bundle fits (%s): building one from its ONNX file, kept in %s", reasons(shipped, wanted),
        folder,
    )  # fmt: skip
    engine = build(trt, model, wanted, profiles, cache / "engines")
    keep(folder / wanted.file, engine)
    keep(folder / f"{wanted.file}.sha256", hashlib.sha256(engine).hexdigest().encode())
    return engine


def reasons(keys: Iterable[Key], wanted: Key) -> str:
    """Why no engine is the wanted one."""
    return "; ".join(f"one has {key.unlike(wanted)}" for key in keys) or "it has none"


def _kept(folder: Path, wanted: Key) -> bytes | None:
    """An engine that was built here, if it is whole."""
    path, seal = folder / wanted.file, folder / f"{wanted.file}.sha256"
    if not (path.is_file() and seal.is_file()):
        return None
    engine = path.read_bytes()
    if hashlib.sha256(engine).hexdigest() != seal.read_text():
        log.warning("%s is damaged", path)
        return None
    return engine
