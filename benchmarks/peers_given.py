"""What the systems of benchmarks/peers.py are given: one folder, made once for a student and its training data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModel

from attar.distill.huggingface import save_pooling
from attar.distill.student import Student
from attar.export.bundle import manifest
from attar.export.folders.files import write_json, write_tokenizer
from attar.export.folders.huggingface import config_of, family_of, state_of, unscaled
from attar.export.folders.source import Source
from attar.runtime.bundle import Manifest
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from benchmarks.int8 import dynamic

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def given(parent: Path, record: Manifest, train: Examples, base: str, student: Path | None) -> Path:
    """The folder under `parent`; peers/system.py says what it holds."""
    task = record.task
    if not isinstance(task, TextClassification) or task.multi_label or task.pairs:
        raise SettingsError(f"peers are compared where single texts are sorted into classes, not in {task.kind}")
    told = {"labels": task.labels, "max_length": task.max_length, "pad_id": record.pad_id, "base": base}
    weights = Student.load(student) if student else None
    parts = [json.dumps(told), train.digest(), *map(digest, sorted(student.glob("*.*")) if student else [])]
    folder = parent / f"given-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent) as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        (fresh / "task.json").write_text(json.dumps(told), encoding="utf-8")
        rows = zip(train.texts, train.labels or (), strict=True)
        lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
        (fresh / "train.jsonl").write_text("".join(lines), encoding="utf-8")
        if weights is not None:
            write_checkpoint(weights, fresh)
            write_onnx(fresh)
        fresh.rename(folder)
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_checkpoint(student: Student, folder: Path) -> None:
    """checkpoint/, the encoder for plain transformers in fp32, and head.npz; `SettingsError` where it holds none."""
    shape = student.transformer.shape.heads[0]
    if shape.dense or shape.reads != "first":
        raise SettingsError("peers are given a linear head on the first token, and this student's is another")
    head = unscaled(student).encoder.get_submodule(f"heads.{shape.name}.classifier")
    np.savez(folder / "head.npz", **{name: value.detach().numpy() for name, value in head.named_parameters()})
    width = student.transformer.shape.hidden
    task = Embedding(width, max_length=student.task.max_length, pooling="cls", normalise=False)
    bare = replace(student, task=task, plan=None)
    family, place = family_of(bare), folder / "checkpoint"
    if family != "bert":
        raise SettingsError(f"peers are given a BERT, and this student is one of the family {family}")
    place.mkdir()
    write_json(place / "config.json", config_of(bare, family))
    save_file(
        {k: v.contiguous() for k, v in state_of(bare, family).items()}, place / "model.safetensors", {"format": "pt"}
    )
    source = Source(place, manifest(student, "student"), student.tokenizer, None, None)
    write_tokenizer(source, place, typed=True)
    write_special_tokens(place)
    save_pooling(task, place)


def write_special_tokens(folder: Path) -> None:
    """special_tokens_map.json, which fastembed asks for."""
    known: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "special_tokens_map.json", {k: v for k, v in known.items() if k.endswith("_token")})


def write_onnx(folder: Path) -> None:
    """onnx/fp32.onnx, the checkpoint by PyTorch's own export with eager attention, and int8.onnx, dynamic."""
    model = AutoModel.from_pretrained(folder / "checkpoint", add_pooling_layer=False, attn_implementation="eager")
    ids = torch.ones(2, 16, dtype=torch.int64)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    place = folder / "onnx"
    place.mkdir()
    with torch.no_grad():
        program = torch.onnx.export(
            First(model).eval(), (ids, torch.ones_like(ids), torch.zeros_like(ids)), dynamo=True, verbose=False,
            input_names=INPUTS, output_names=["last_hidden_state"], dynamic_shapes=(axes, axes, axes),
        )  # fmt: skip
    assert program is not None
    fp32 = program.model_proto.SerializeToString()
    (place / "fp32.onnx").write_bytes(fp32)
    (place / "int8.onnx").write_bytes(dynamic(fp32, place))
    (place / "dynamic.onnx").unlink()


class First(torch.nn.Module):
    """The states of the last layer alone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(ids, mask, types).last_hidden_state
        return states


def size(paths: Sequence[Path]) -> float:
    """Megabytes of all files in these folders."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
