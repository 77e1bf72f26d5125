"""Back to a checkpoint that transformers loads, where all layers are alike: importers.py the other way round.

RoBERTa and XLM-R come back as BERT, which computes the same: where positions begin is no matter of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from attar.distill.batches import run
from attar.distill.checkpoint import TASK
from attar.distill.encoder import Encoder, EncoderShape
from attar.distill.huggingface import HuggingFace, outputs_of, save_pooling
from attar.distill.importers import FAMILIES
from attar.distill.student import Student
from attar.export.bundle import GOLDEN, GOLDEN_PAIRS
from attar.export.folders.files import reading, write_json, write_tokenizer
from attar.export.folders.graph import SUFFIXES, affine
from attar.export.folders.source import Made, Source
from attar.export.parity import TOLERANCE, flat
from attar.runtime.errors import ParityError, SettingsError
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.regression import Regression

WEIGHTS = True
CLASSES: Mapping[str, str] = {"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra", "mpnet": "MPNet"}
BY_ACTIVATION: Mapping[str, str] = {"tanh": "bert", "relu": "distilbert", "gelu": "electra"}
"""Whose classifier has a hidden layer with this activation."""


def write(source: Source, folder: Path) -> Made:
    """config.json, model.safetensors, the tokenizer's files and attar's own record of the task."""
    source.require("huggingface", tuple(SUFFIXES))
    student = unscaled(source.weights())
    family = family_of(student)
    config, state = config_of(student, family), state_of(student, family)
    write_json(folder / "config.json", config)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(source, folder, typed=config.get("type_vocab_size", 1) > 1)
    write_json(folder / TASK, student.task.to_json())
    if student.task.kind == "embeddings":
        save_pooling(student.task, folder)
    _check(student, folder)
    name = config["architectures"][0]
    how = f"""    from transformers import AutoTokenizer, {name}

    model = {name}.from_pretrained("path/to/this/folder")
    tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"){reading(source.task)}"""
    return Made(how, other="the checkpoint here, in fp32 as before any quantization")


def _check(student: Student, folder: Path) -> None:
    """`ParityError` where transformers computes something else than the student."""
    encoded = student.encode(list(GOLDEN_PAIRS if student.task.pairs else GOLDEN))
    model = HuggingFace(folder, student.task).eval()
    found, wanted = flat(run(model, student.task.heads, encoded, student.pad_id)), flat(student.outputs(encoded))
    for head, values in wanted.items():
        error = float(np.abs(found[head] - values).max() / max(1.0, float(np.abs(values).max())))
        if not error <= TOLERANCE:
            raise ParityError(
                f"transformers computes other {head} of this checkpoint than the student gives: by {error:.2g}, at "
                f"most {TOLERANCE}. Package it as ONNX instead (--to optimum)"
            )


def unscaled(student: Student) -> Student:
    """The student with its temperature, or its mean and scale, in the weights of the last layer."""
    scale, shift = affine(student.task)
    if (scale, shift) == (1.0, 0.0):
        return student
    task: Task = student.task
    if isinstance(task, TextClassification):
        task = replace(task, temperature=1.0)
    elif isinstance(task, Regression):
        task = replace(task, mean=0.0, scale=1.0)
    found = replace(student.copy(), task=task)
    last = found.encoder.get_submodule(f"heads.{task.heads[0].name}.classifier")
    with torch.no_grad():
        for name, value in last.named_parameters():
            value.mul_(scale).add_(shift if name == "bias" else 0.0)
    return found


def family_of(student: Student) -> str:
    """The family that can hold the student; `SettingsError` says why none can."""
    encoder = student.encoder
    if not isinstance(encoder, Encoder):
        raise SettingsError(
            f"transformers has no model like a {encoder.shape.kind} student; package it as ONNX instead"
        )
    reason = _uneven(encoder.shape) or _head(student, encoder.shape)
    family = "mpnet" if encoder.shape.relative else BY_ACTIVATION[encoder.shape.heads[0].activation]
    if not encoder.shape.heads[0].dense and family != "mpnet":
        family = "bert"
    reason = reason or _unlike(student, encoder, family)
    if reason:
        raise SettingsError(f"no model of transformers can hold this student: {reason}. Package it as ONNX instead")
    return family


def _uneven(shape: EncoderShape) -> str:
    """Why the layers are not those of one of the families, or nothing."""
    sizes = [(s.heads, s.head_size, s.ffn) for s in shape.layers]
    if shape.word_rank:
        return "its word embeddings are factorized"
    for i, layer in enumerate(shape.layers, 1):
        if layer.ranks:
            return f"layer {i} is factorized ({', '.join(layer.ranks)})"
        if sizes[i - 1] != sizes[0]:
            told = [f"{h} heads of {d} and {f} neurons" for h, d, f in (sizes[0], sizes[i - 1])]
            return f"its layers differ: layer 1 has {told[0]}, layer {i} {told[1]}"
    heads, size, _ = sizes[0]
    if heads * size != shape.hidden:
        return f"its layers have {heads} heads of {size}, which is not the hidden size, {shape.hidden}"
    return ""


def _head(student: Student, shape: EncoderShape) -> str:
    """Why the head is not that of a class of transformers, or nothing."""
    head = shape.heads[0]
    hidden = shape.hidden if student.task.kind in ("text-classification", "regression") else 0
    if head.dense != hidden:
        return f"its head has a hidden layer of {head.dense} (0: none), a class of transformers one of {hidden}"
    return ""


def _unlike(student: Student, encoder: Encoder, family: str) -> str:
    """Why the family cannot hold the weights, or nothing."""
    shape = encoder.shape
    if family in ("distilbert", "mpnet") and shape.types > 1 and student.task.pairs:
        return f"it has token types, which {family} lacks"
    if family == "distilbert" and shape.eps != 1e-12:
        return f"its norms add {shape.eps:g} where distilbert adds 1e-12"
    if family != "mpnet":
        return ""
    tables = [v for k, v in encoder.state_dict().items() if k.endswith(".relative.weight")]
    if any(not torch.equal(table, tables[0]) for table in tables):
        return "its layers have tables of distances of their own, and mpnet has one for all"
    if student.pad_id != FAMILIES[family].pad_id:
        return f"its padding token is {student.pad_id}, which in mpnet is always {FAMILIES[family].pad_id}"
    if shape.heads[0].dense and shape.heads[0].activation != "tanh":
        return f"its head has {shape.heads[0].activation} where mpnet has tanh"
    return ""


def config_of(student: Student, family: str) -> dict[str, Any]:
    """config.json."""
    shape = student.transformer.shape
    layer = shape.layers[0]
    sizes = {"hidden_size": shape.hidden, "intermediate_size": layer.ffn}
    counts = {"num_hidden_layers": len(shape.layers), "num_attention_heads": layer.heads}
    activation = {"hidden_act": shape.activation, "layer_norm_eps": shape.eps}
    if family == "distilbert":
        sizes = {"dim": shape.hidden, "hidden_dim": layer.ffn}
        counts = {"n_layers": len(shape.layers), "n_heads": layer.heads}
        activation = {"activation": shape.activation}
    if family == "electra":
        sizes["embedding_size"] = shape.hidden
    types = {"type_vocab_size": shape.types} if family in ("bert", "electra") else {}
    return {
        "model_type": family,
        "architectures": [CLASSES[family] + SUFFIXES[student.task.kind]],
        **outputs_of(student.task), **sizes, **counts, **activation, **types,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions + _unused(family),
        "pad_token_id": student.pad_id,
    }  # fmt: skip


def _unused(family: str) -> int:
    """How many positions lie before the first that a token has: the family counts from behind its padding token."""
    pad_id = FAMILIES[family].pad_id
    return 0 if pad_id is None else pad_id + 1


def state_of(student: Student, family: str) -> dict[str, Tensor]:
    """The weights under the family's names; a base model, of embeddings, has no prefix."""
    names, own = FAMILIES[family], {k: v.detach() for k, v in student.encoder.state_dict().items()}
    prefix = "" if student.task.kind == "embeddings" else f"{names.prefix}."
    base, head = f"{prefix}embeddings.", f"heads.{student.task.heads[0].name}"
    positions = own["positions.weight"]
    state = {f"{base}word_embeddings.weight": own["words.weight"]}
    if family in ("bert", "electra"):
        state[f"{base}token_type_embeddings.weight"] = own["types.weight"]
    else:
        positions = positions + own["types.weight"][0]
    if family == "mpnet":
        positions = torch.cat([positions.new_zeros(_unused(family), positions.shape[1]), positions])
        state[f"{prefix}{names.relative}.weight"] = own["layers.0.relative.weight"]
    state[f"{base}position_embeddings.weight"] = positions
    last = {"question-answering": "qa_outputs", "token-classification": "classifier"}
    modules = {"embedding_norm": f"{base}LayerNorm", f"{head}.dense": names.dense}
    modules[f"{head}.classifier"] = last.get(student.task.kind, names.classifier)
    for i in range(len(student.transformer.shape.layers)):
        modules |= {f"layers.{i}.{o}": f"{prefix}{names.layer.format(i)}.{t}" for o, t in names.names.items()}
    for ours, theirs in modules.items():
        state |= {f"{theirs}.{p}": own[f"{ours}.{p}"] for p in ("weight", "bias") if f"{ours}.{p}" in own}
    return state
