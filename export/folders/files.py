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

ROLES: Mapping[str, tuple[str, ...]] = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}
"""What the tokens are called that tokenizer.json holds but gives no role."""


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(source: Source, folder: Path, *, typed: bool) -> None:
    """tokenizer.json as it is, and tokenizer_config.json; `typed`: the model reads token types."""
    (folder / "tokenizer.json").write_bytes(source.tokenizer)
    known = Tokenizer.from_buffer(source.tokenizer)
    record: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
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
