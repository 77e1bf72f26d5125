"""A student into a bundle: model, tokenizer, golden inputs, model card and manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.compress.quantize.plan import QuantPlan
from attar.distill.encoder import EncoderShape
from attar.distill.network import Shape
from attar.distill.student import Student
from attar.export.onnx import to_files
from attar.export.onnx.files import LIMIT
from attar.export.onnx.needs import needs
from attar.runtime.bundle import Bundle, Manifest, write_bundle
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.errors import GateError
from attar.runtime.model import Model, golden_outputs
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.version import __version__

MAX_BATCH = 256
GOLDEN = (
    "A short one.",
    "",
    "Déjà vu: naïve façades, 東京, émigré coöperation; 50 % off — tabs\tand 🎉 emoji.",
    "This sentence is a little longer than the others, so that attention has some work to do.",
)

GOLDEN_PAIRS = (
    ("Who wrote it?", "It was written in 1843 by Ada, the daughter of a poet."),
    ("東京 où?", "Déjà vu: naïve façades, 東京, émigré coöperation; 50 % off — tabs\tand 🎉 emoji."),
)


@dataclass(frozen=True)
class Evidence:
    """What was proved about the bytes that ship, for the manifest and the model card."""

    gate: Mapping[str, Any] | None = None
    gate_sentence: str = "No gate was run: accuracy is not proved."
    facts: Mapping[str, Any] | None = None


def scheme(student: Student) -> str:
    """fp32, or the name of the quantization plan; what runs in int8 are layers, and not every network has them."""
    plan = QuantPlan.from_json(student.plan)
    if plan is None:
        return "fp32"
    return plan.scheme if student.encoder.depth else "int8 words, all else fp32"


def manifest(
    student: Student, name: str, gate: Mapping[str, Any] | None = None, *, model: bytes | None = None
) -> Manifest:
    """The manifest without files, which `write_bundle` adds. `model`: the graph, by which it says what that needs."""
    plan = QuantPlan.from_json(student.plan)
    requires = needs(model) if model else {}
    if plan is not None and plan.kind == "int8" and plan.bits == 8 and student.encoder.depth:
        # u8 x s8 products saturate on x86 without VNNI; golden inputs tell when it matters.
        requires["x86"] = "avx512_vnni or avx_vnni (or quantize with bits = 7)"
    return Manifest(
        task=student.task,
        files={},
        limits={"max_length": student.task.max_length, "max_batch": MAX_BATCH},
        pad_id=student.pad_id,
        scheme=scheme(student),
        lineage=student.lineage,
        gate=gate,
        requires=requires,
        name=name,
        attar=__version__,
    )


def in_memory(
    student: Student, *, threads: int | None = None, model: bytes | Mapping[str, bytes] | None = None
) -> Model:
    """The student as the runtime would run it, without writing anything; `model`: its exported bytes, or the files
    that they are, where they are known."""
    files = {"model.onnx": model} if isinstance(model, bytes) else model or to_files(student)
    contents = {**files, "tokenizer.json": student.tokenizer}
    bundle = Bundle(Path("in-memory"), manifest(student, "in-memory"), contents)
    return Model(bundle, OnnxEngine(files["model.onnx"], threads=threads, files=files))


def golden(model: Model) -> bytes:
    """Inputs and the activated outputs that the exported bytes give here; replayed at every load."""
    texts: list[Any] = [list(pair) for pair in GOLDEN_PAIRS] if model.task.pairs else list(GOLDEN)
    outputs = []
    for text in texts:
        found = golden_outputs(model, model.task.parse(text))
        outputs.append({name: [[round(v, 6) for v in row] for row in rows.tolist()] for name, rows in found.items()})
    return (json.dumps({"texts": texts, "outputs": outputs}, ensure_ascii=False) + "\n").encode()


def write(
    student: Student, out: Path, *, name: str, evidence: Evidence | None = None, allow_failed_gate: bool = False,
    files: Mapping[str, bytes] | None = None, beside: int = LIMIT,
) -> Bundle:  # fmt: skip
    """Writes the bundle, or raises `GateError` where the gate was not passed and that was not allowed.

    `files`: the student as `to_files` gives it, where that is known; without them weights of more than `beside` bytes
    lie beside the graph.
    """
    evidence = evidence or Evidence()
    if evidence.gate is not None and evidence.gate["verdict"] != "pass" and not allow_failed_gate:
        raise GateError(
            f"no bundle was written: {evidence.gate_sentence}. Give more data, a larger margin, a gentler recipe, "
            "or --allow-failed-gate"
        )
    files = files or to_files(student, beside)
    contents = {
        **files,
        "tokenizer.json": student.tokenizer,
        "golden.json": golden(in_memory(student, model=files)),
        "README.md": card(student, name, evidence).encode(),
    }
    return write_bundle(out, manifest(student, name, evidence.gate, model=files["model.onnx"]), contents)


def card(student: Student, name: str, evidence: Evidence) -> str:
    """The model card."""
    notes = [f"`{s['use']}`" + (f": {s['note']}" if "note" in s else "") for s in student.lineage]
    steps = "\n".join(f"{i}. {note}" for i, note in enumerate(notes, 1)) or "none: converted as it was"
    facts = "\n".join(f"- {k}: {v}" for k, v in (evidence.facts or {}).items())
    return f"""# {name}

Made by attar {__version__}. Task: {describe(student.task)}.
It reads {student.task.max_length} tokens at a time.

    import attar
    model = attar.load("path/to/this/folder")
    model({"(question, context)" if student.task.pairs else '"a text"'})

## Accuracy

{evidence.gate_sentence}

{facts}

## How it was made

{steps}

## What is inside

Weights and activations: {scheme(student)}; {student.encoder.parameter_count():,} parameters.

{inside(student.encoder.shape)}
"""


def inside(shape: Shape) -> str:
    """A line for each layer of a transformer; one of all sizes for other networks."""
    if not isinstance(shape, EncoderShape):
        sizes = {k: v for k, v in shape.to_json().items() if k not in ("kind", "heads")}
        return f"- {shape.kind} network: " + ", ".join(f"{k} {v}" for k, v in sizes.items())
    return "\n".join(
        f"- layer {i}: {s.heads} heads of {s.head_size}, {s.ffn} feed-forward neurons"
        + (f", ranks {dict(s.ranks)}" if s.ranks else "")
        for i, s in enumerate(shape.layers, 1)
    )


def describe(task: Task) -> str:
    """A task in a few words: its kind and the names of its outputs."""
    if isinstance(task, MultiTask):
        return f"{task.kind}; " + "; ".join(f"{name}: {describe(part)}" for name, part in task.parts)
    names = getattr(task, "labels", ()) or getattr(task, "tags", ())
    shown = [*names[:10], *(["..."] if len(names) > 10 else [])]
    return f"{task.kind} ({len(names)}: {', '.join(shown)})" if names else task.kind
