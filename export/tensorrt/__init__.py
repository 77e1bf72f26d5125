"""What TensorRT needs, put into a bundle: a typed model in standard operators, profiles from real texts, engines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from attar.compress.quantize.calibration import LEVELS
from attar.compress.quantize.plan import QuantPlan
from attar.compress.quantize.static import calibrate, shared
from attar.distill.encoder import Encoder
from attar.distill.student import Student
from attar.export.bundle import golden, in_memory
from attar.export.onnx import to_onnx
from attar.export.onnx.standard import LEVELS as TOPS
from attar.export.onnx.standard import PRECISIONS, Precision, Typing, lower
from attar.export.parity import compare
from attar.export.tensorrt.layers import confirm
from attar.runtime.bundle import Bundle, write_bundle
from attar.runtime.cache import cache_folder
from attar.runtime.engines import plans
from attar.runtime.engines.cuda import Cuda
from attar.runtime.engines.plans import Key
from attar.runtime.engines.profiles import Profile, digest, profiles_for
from attar.runtime.engines.tensorrt import GOLDEN, MODEL, RECORD
from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.tokenizer import Text

CALIBRATED = 256
"""Texts that ranges of activations are taken from; lengths are those of all."""


@dataclass(frozen=True)
class Built:
    """One engine: its file, its size in bytes, and how many matrix products were read back in the precision (None
    where only a GPU's own inspector could tell)."""

    file: str
    size: int
    confirmed: int | None


@dataclass(frozen=True)
class Extended:
    """What was built, and how the typed model does on a CPU against the bundle's own, on so many texts.

    `judged`: the precision of that model; fp32 for bf16, which has no products on a CPU.
    `difference`: the largest one in probability (or vector, or number); `agreement`: in how many rows or tokens (%) the
    largest output is the same.
    """

    engines: tuple[Built, ...]
    judged: str
    texts: int
    difference: float
    agreement: float


def typed(student: Student, texts: Sequence[Text], precision: str) -> tuple[bytes, tuple[str, ...]]:
    """The model in the precision, and the nodes that are products of its layers' matrices in it.

    The precision takes the place of the student's quantization plan; matrices that the plan keeps full stay in fp16.
    """
    known = next((p for p in PRECISIONS if p == precision), None)
    if known is None:
        raise SettingsError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    model = lower(student, Typing(known, ranges(student, texts, known)))
    rounded = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    matrices = tuple(
        node.name for node in model.graph.node
        if node.op_type == "MatMul" and node.name.endswith((".product", ".inner"))
        and (known not in TOPS or node.input[1] in rounded)
    )  # fmt: skip
    return bytes(model.SerializeToString(deterministic=True)), matrices


def ranges(student: Student, texts: Sequence[Text], precision: Precision) -> dict[str, float]:
    """The largest magnitude that each matrix reads, for int8 clipped where rounding is best; else nothing."""
    if precision not in TOPS:
        return {}
    plan = QuantPlan.from_json(student.plan)
    full = plan.full if plan else ()
    found = shared(calibrate(student, texts[:CALIBRATED], "mse" if precision == "int8" else "minmax"))
    return {
        name: scale * LEVELS for name, scale in found.items()
        if name.removesuffix(".down").removesuffix(".up") not in full
    }  # fmt: skip


def extend(
    bundle: Bundle, student: Student, texts: Sequence[Text], precision: str, capabilities: Sequence[str], out: Path
) -> Extended:
    """Writes the bundle anew with a model for TensorRT and an engine for each compute capability.

    `student` is the one that the bundle was exported from; `texts` are of the kind that it will read.
    """
    if not isinstance(student.encoder, Encoder):
        kind = student.encoder.shape.kind
        raise SettingsError(f"TensorRT is for transformer students, and this one is {kind}: it is quick on a CPU")
    student = replace(student, task=bundle.manifest.task)
    check_origin(bundle, student)
    if not capabilities:
        raise SettingsError("name the compute capabilities to build for, such as 8.6,8.9")
    trt = plans.flavour()
    for capability in capabilities:
        plans.check_capability(trt, capability, precision)
    limits = bundle.manifest.limits
    lengths = [len(row) for row in student.encode(texts).ids]
    profiles = profiles_for(lengths, limits["max_length"], max_batch=limits["max_batch"])
    model, matrices = typed(student, texts, precision)
    engines, built = {}, []
    for capability in dict.fromkeys(capabilities):
        key = key_for(trt, capability, precision, profiles)
        engine = plans.build(trt, model, key, profiles, cache_folder() / "engines")
        # The inspector of `tensorrt` itself wants a GPU, and was not tried.
        confirmed = confirm(engine, precision, matrices) if plans.capabilities(trt) else None
        engines[key] = engine
        built.append(Built(key.file, len(engine), confirmed))
    judged = "fp32" if precision == "bf16" else precision
    runnable = model if judged == precision else typed(student, texts, judged)[0]
    mine, some = in_memory(student, model=runnable), list(texts[:CALIBRATED])
    difference, agreement = compare(student, in_memory(student), mine, some)
    files = contents(bundle, model, precision, profiles, engines)
    write_bundle(out, bundle.manifest, {**files, GOLDEN: golden(mine)})
    return Extended(tuple(built), judged, len(some), difference, agreement)


def key_for(trt: Any, capability: str, precision: str, profiles: Sequence[Profile]) -> Key:
    """What an engine that is built here is for."""
    if plans.capabilities(trt):
        return Key(trt.__name__, trt.__version__, capability, None, precision, digest(profiles))
    gpu = Cuda()
    if gpu.capability != capability:
        raise SettingsError(
            f"{trt.__name__} builds for the GPU at hand alone, which is {gpu.capability}, not {capability}: build "
            "there, or install tensorrt-rtx"
        )
    return Key(trt.__name__, trt.__version__, capability, gpu.driver, precision, digest(profiles))


def check_origin(bundle: Bundle, student: Student) -> None:
    """Refuses a student that is not the bundle's: an engine must compute what the bundle's gate has judged."""
    if bundle.contents["tokenizer.json"] != student.tokenizer or bundle.contents["model.onnx"] != to_onnx(student):
        raise BundleError(
            f"the model in {bundle.path} is not what this student exports to: give the student that it was made from, "
            "or export the bundle again"
        )


def contents(
    bundle: Bundle, model: bytes, precision: str, profiles: Sequence[Profile], engines: Mapping[Key, bytes]
) -> dict[str, bytes]:
    """The bundle's files with those for TensorRT in the place of earlier ones."""
    kept = {n: c for n, c in bundle.contents.items() if n not in (MODEL, RECORD, GOLDEN) and not n.endswith(".engine")}
    record = {
        "precision": precision,
        "profiles": [asdict(p) for p in profiles],
        "engines": [asdict(key) for key in engines],
    }
    files = {key.file: engine for key, engine in engines.items()}
    return {**kept, MODEL: model, RECORD: (json.dumps(record, indent=1) + "\n").encode(), **files}
