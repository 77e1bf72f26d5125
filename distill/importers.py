"""Weights of Hugging Face checkpoints into `Encoder`: BERT, DistilBERT, RoBERTa, XLM-R, ELECTRA classifiers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from attar.distill.encoder import Encoder, EncoderShape, LayerShape
from attar.runtime.errors import ModelError

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """How one family names its weights. `{}` stands for the layer's number.

    `pad_offset`: positions are counted from behind the id of the padding token, as RoBERTa does.
    """

    prefix: str
    layer: str
    names: Mapping[str, str]
    dense: str
    classifier: str
    head_activation: str
    pad_offset: bool = False


_BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
}
_DISTIL_NAMES = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "ffn_in": "ffn.lin1",
    "ffn_out": "ffn.lin2",
    "ffn_norm": "output_layer_norm",
}
_ROBERTA = Family(
    "roberta", "encoder.layer.{}", _BERT_NAMES, "classifier.dense", "classifier.out_proj", "tanh", pad_offset=True
)
FAMILIES: Mapping[str, Family] = {
    "bert": Family("bert", "encoder.layer.{}", _BERT_NAMES, "bert.pooler.dense", "classifier", "tanh"),
    "distilbert": Family("distilbert", "transformer.layer.{}", _DISTIL_NAMES, "pre_classifier", "classifier", "relu"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": Family("electra", "encoder.layer.{}", _BERT_NAMES, "classifier.dense", "classifier.out_proj", "gelu"),
}


@dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned classifier read from a folder: the encoder, its label names, its tokenizer and lengths."""

    encoder: Encoder
    labels: tuple[str, ...]
    tokenizer: bytes
    pad_id: int
    max_length: int


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; `ModelError` where there is none."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no model folder: it has no config.json") from error
    except ValueError as error:
        raise ModelError(f"{folder / 'config.json'} is not valid JSON: {error}") from error
    return config


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
    """The tensors of a safetensors file; `ModelError` where it is missing or cut short."""
    if not path.is_file():
        raise ModelError(f"{path.parent} has no {path.name}; save the model again with safe serialization")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} cannot be read, it may be truncated: {error}") from error


def family_of(folder: Path) -> Family:
    """The family of a model folder; `ModelError` for one that cannot be imported."""
    kind = read_config(folder).get("model_type", "?")
    if kind not in FAMILIES:
        raise ModelError(f"architecture {kind!r} in {folder} cannot be imported; known: {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def import_classifier(folder: Path) -> Checkpoint:
    """Reads a fine-tuned sequence classifier without running any of its code."""
    family, config = family_of(folder), read_config(folder)
    tokenizer = read_tokenizer(folder)
    weights = read_weights(folder / "model.safetensors")
    if f"{family.classifier}.weight" not in weights:
        raise ModelError(f"{folder} has no classification head: fine-tune it first (attar run does)")
    encoder = build(config, family, weights)
    labels = config.get("id2label") or {}
    count = encoder.shape.labels
    names = tuple(str(labels.get(str(i), f"LABEL_{i}")) for i in range(count))
    pad_id = int(config.get("pad_token_id") or 0)
    return Checkpoint(encoder, names, tokenizer, pad_id, _max_length(folder, encoder.shape.positions))


def _max_length(folder: Path, positions: int) -> int:
    """The length the tokenizer was trained to cut at, never more than the model has positions."""
    path = folder / "tokenizer_config.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return int(min(record.get("model_max_length") or positions, positions))


def build(config: Mapping[str, Any], family: Family, weights: Weights) -> Encoder:
    """An `Encoder` with the checkpoint's weights; token type 0 is folded into the positions."""

    def get(name: str) -> Tensor:
        if name not in weights:
            raise ModelError(f"the checkpoint lacks the weight {name!r}; it may be truncated")
        return weights[name].float()

    base = f"{family.prefix}.embeddings."
    words, positions = get(base + "word_embeddings.weight"), get(base + "position_embeddings.weight")
    if words.shape[1] != _size(config, "hidden_size", "dim"):
        raise ModelError("embeddings narrower than the hidden size are not supported by this version")
    if family.pad_offset:
        positions = positions[int(config.get("pad_token_id", 1)) + 1 :]
    if f"{base}token_type_embeddings.weight" in weights:
        positions = positions + get(base + "token_type_embeddings.weight")[0]
    shape = _shape(config, family, words, positions, get)
    encoder = Encoder(shape)
    state = {"words.weight": words, "positions.weight": positions}
    for part in ("weight", "bias"):
        state[f"embedding_norm.{part}"] = get(f"{base}LayerNorm.{part}")
        state[f"dense.{part}"] = get(f"{family.dense}.{part}")
        state[f"classifier.{part}"] = get(f"{family.classifier}.{part}")
        for i in range(len(shape.layers)):
            for ours, theirs in family.names.items():
                name = f"{family.prefix}.{family.layer.format(i)}.{theirs}.{part}"
                state[f"layers.{i}.{ours}.{part}"] = get(name)
    encoder.load_state_dict(state)
    return encoder.eval()


def _shape(
    config: Mapping[str, Any], family: Family, words: Tensor, positions: Tensor, get: Callable[[str], Tensor]
) -> EncoderShape:
    hidden, heads = int(words.shape[1]), _size(config, "num_attention_heads", "n_heads")
    ffn, count = _size(config, "intermediate_size", "hidden_dim"), _size(config, "num_hidden_layers", "n_layers")
    activation = config.get("hidden_act") or config.get("activation") or "gelu"
    if activation not in {"gelu", "relu"}:
        raise ModelError(f"activation {activation!r} is not supported; known: gelu, relu")
    return EncoderShape(
        vocab=int(words.shape[0]),
        hidden=hidden,
        positions=int(positions.shape[0]),
        layers=tuple(LayerShape(heads, hidden // heads, ffn) for _ in range(count)),
        labels=int(get(f"{family.classifier}.weight").shape[0]),
        head=int(get(f"{family.dense}.weight").shape[0]),
        activation=activation,
        head_activation=family.head_activation,
        eps=float(config.get("layer_norm_eps", 1e-12)),
    )


def _size(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if name in config:
            return int(config[name])
    raise ModelError(f"config.json lacks {names[0]!r}")
