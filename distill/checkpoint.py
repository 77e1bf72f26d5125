"""What lies in a Hugging Face folder, read without running any of its code: files, and the task it was trained for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attar.runtime.errors import AttarError, ModelError
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tasks.regression import Regression
from attar.runtime.tasks.tokens import TokenClassification

TASK = "attar.json"
"""What config.json has no place for: the task with thresholds, stride, heads. Written by fine-tuning."""
HEADS = "heads.safetensors"
"""Weights of the heads of a multi-task teacher, which transformers has no class for."""
POOLING = "1_Pooling/config.json"
"""How a sentence-transformers folder pools."""


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; `ModelError` where there is none."""
    return _json(folder / "config.json", f"{folder} is no model folder: it has no config.json")


def depth_of(folder: Path) -> int:
    """How many layers the model in a folder has."""
    config = read_config(folder)
    return int(config.get("num_hidden_layers") or config.get("n_layers") or 0)


def _json(path: Path, missing: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(missing) from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    return record


def read_tokenizer(folder: Path) -> bytes:
    """tokenizer.json of a model folder; `ModelError` with the remedy where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no tokenizer.json; save the fast tokenizer beside the model with "
            "tokenizer.save_pretrained(folder)"
        )
    return path.read_bytes()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; `ModelError` where it is missing or cut short, or a number is none."""
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}; save the model again with safe serialization")
    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} cannot be read, it may be truncated: {error}") from error
    require_finite(found, f"{path}: ")
    return found


def require_finite(tensors: Mapping[str, Tensor], where: str = "") -> None:
    """`ModelError` names the first tensor with a number that is none, which scales and refits would spread."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
            raise ModelError(
                f"{where}{name} holds {int((~finite).sum())} of {tensor.numel()} numbers that are NaN or infinite: its "
                "training diverged, or the file is damaged; give an earlier checkpoint"
            )


def read_task(folder: Path, positions: int) -> Task:
    """The task of a fine-tuned model: from attar.json, or from what config.json says."""
    if (folder / TASK).is_file():
        return task_of(_json(folder / TASK, ""))
    config = read_config(folder)
    kind = (config.get("architectures") or ["?"])[0]
    length = max_length(folder, positions)
    if (folder / POOLING).is_file():
        return _embedding(folder, config, length)
    try:
        return _task(kind, config, length)
    except AttarError as error:
        raise ModelError(f"{folder}: {error}") from error


def _task(architecture: str, config: Mapping[str, Any], length: int) -> Task:
    problem = config.get("problem_type")
    if architecture.endswith("ForTokenClassification"):
        return TokenClassification(_labels(config), length, min(32, length // 4))
    if architecture.endswith("ForQuestionAnswering"):
        length = min(length, 384)
        return QuestionAnswering(length, min(128, length // 3))
    if architecture.endswith("ForSequenceClassification"):
        labels = _labels(config)
        if problem == "multi_label_classification":
            return TextClassification(labels, length, multi_label=True)
        if problem == "regression" or len(labels) == 1:
            return Regression(length)
        return TextClassification(labels, length)
    raise ModelError(
        f"a {architecture} has no head that attar serves: fine-tune it first (attar run does), or give a "
        f"sentence-transformers folder with {POOLING}"
    )


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the outputs, in their order; without any the two that the library makes up."""
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    wanted = [str(i) for i in range(len(names))]
    if not isinstance(names, Mapping) or set(names) != set(wanted):
        given = ", ".join(map(str, names))
        raise ModelError(
            f"id2label in config.json names the outputs {given}; give each output from 0 to {len(names) - 1} one name"
        )
    return tuple(str(names[i]) for i in wanted)


def _embedding(folder: Path, config: Mapping[str, Any], length: int) -> Task:
    pooling = _json(folder / POOLING, "")
    known: dict[str, Literal["mean", "cls", "max"]] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_max_tokens": "max",
    }
    chosen = [ours for theirs, ours in known.items() if pooling.get(theirs)]
    other = [k for k, v in pooling.items() if k.startswith("pooling_mode_") and v is True and k not in known]
    if len(chosen) != 1 or other:
        raise ModelError(f"{folder / POOLING} asks for {[*chosen, *other]}; attar pools by one of mean, cls, max")
    modules = folder / "modules.json"
    steps = json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    unknown = [k for k in kinds if k not in {"Transformer", "Pooling", "Normalize"}]
    if unknown:
        raise ModelError(f"{folder} has a module {unknown[0]!r} that cannot be imported")
    own = folder / "sentence_bert_config.json"
    if own.is_file():
        length = min(length, json.loads(own.read_text(encoding="utf-8")).get("max_seq_length") or length)
    width = pooling.get("word_embedding_dimension") or config.get("hidden_size") or config.get("dim")
    return Embedding(int(width or 0), length, chosen[0], normalise=not kinds or "Normalize" in kinds)


def max_length(folder: Path, positions: int) -> int:
    """The length the tokenizer was trained to cut at, never more than the model has positions."""
    path = folder / "tokenizer_config.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return int(min(record.get("model_max_length") or positions, positions))
