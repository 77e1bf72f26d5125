"""The small files that transformers, optimum and transformers.js read beside a model: config.json and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from attar.distill.huggingface import outputs_of
from attar.export.folders.graph import SUFFIXES
from attar.export.folders.source import Source
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding

ROLES: Mapping[str, tuple[str, ...]] = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}
"""What the tokens are called that tokenizer.json holds but gives no role."""


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(source: Source, folder: Path, *, typed: bool, kind: str = "PreTrainedTokenizerFast") -> None:
    """tokenizer.json as it is, and tokenizer_config.json; `typed`: the model reads token types; `kind`: the class."""
    (folder / "tokenizer.json").write_bytes(source.tokenizer)
    known = Tokenizer.from_buffer(source.tokenizer)
    record: dict[str, Any] = {
        "tokenizer_class": kind,
        "model_max_length": source.task.max_length,
        "model_input_names": ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])],
        "pad_token": known.id_to_token(source.manifest.pad_id),
    }
    for role, names in ROLES.items():
        held = [name for name in names if known.token_to_id(name) is not None]
        record |= {role: held[0]} if held else {}
    write_json(folder / "tokenizer_config.json", record)


def graph_config(source: Source) -> dict[str, Any]:
    """config.json for a model whose graph says all else: no sizes, but labels and the class that reads the outputs."""
    task = source.task
    suffix = SUFFIXES[task.kind]
    return {
        "model_type": "bert",
        "architectures": [f"Bert{suffix}"],
        **outputs_of(task),
        "vocab_size": Tokenizer.from_buffer(source.tokenizer).get_vocab_size(),
        "max_position_embeddings": task.max_length,
        "pad_token_id": source.manifest.pad_id,
    }


def reading(task: Task) -> str:
    """What attar makes of the outputs and the other system does not, for the card; a paragraph, or nothing."""
    said = []
    if isinstance(task, TextClassification) and task.thresholds:
        held = ", ".join(f"{n} {t:g}" for n, t in zip(task.labels, task.thresholds, strict=True))
        said.append(f"A label is given from its own threshold on: {held}.")
    if task.kind in ("token-classification", "question-answering"):
        said.append(f"attar reads long texts in windows of {task.max_length} tokens; cut them up yourself here.")
    if isinstance(task, Embedding):
        pooled = {"mean": "the mean", "cls": "the first", "max": "the maximum"}[task.pooling]
        said.append(
            f"A vector is {pooled} of the states of a text's tokens" + (", at length 1." if task.normalise else ".")
        )
        said += [f"Of its numbers the first {task.truncate} are kept."] if task.truncate else []
        said += [f"Every text begins with the prompt {task.prompt!r}."] if task.prompt else []
    return f"\n\n{' '.join(said)}" if said else ""
