"""Weights of Hugging Face checkpoints into `Encoder`: BERT, DistilBERT, RoBERTa, XLM-R, ELECTRA, MPNet; ModernBERT into
a network of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from attar.distill.checkpoint import HEADS, max_length, read_config, read_task, read_tokenizer, read_weights
from attar.distill.encoder import Encoder, EncoderShape, LayerShape
from attar.distill.heads import HeadShape, head_shape
from attar.distill.modern import imported
from attar.distill.network import Network
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Head, Task
from attar.runtime.tasks.embeddings import Embedding

Weights = Mapping[str, Tensor]
BUCKETS = 32
"""How many buckets of relative positions MPNet uses, whatever config.json says."""


@dataclass(frozen=True)
class Family:
    """How one family names its weights. `{}` stands for the layer's number.

    `pad_offset`: positions are counted from behind the id of the padding token, as RoBERTa does; `pad_id` is that id
    where the family's code fixes it, whatever config.json says. `relative` is the table of attention biases by
    distance (buckets, heads), which all layers share.
    """

    prefix: str
    layer: str
    names: Mapping[str, str]
    dense: str
    classifier: str
    head_activation: str
    pad_offset: bool = False
    pad_id: int | None = None
    relative: str = ""


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
_MPNET_NAMES = {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "output": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
    "ffn_norm": "output.LayerNorm",
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
    "mpnet": Family(
        "mpnet", "encoder.layer.{}", _MPNET_NAMES, "classifier.dense", "classifier.out_proj", "tanh",
        pad_offset=True, pad_id=1, relative="encoder.relative_attention_bias",
    ),
}  # fmt: skip
MODERN = "modernbert"
IMPORTED = (*FAMILIES, MODERN)


@dataclass(frozen=True)
class Checkpoint:
    """A fine-tuned model read from a folder."""

    encoder: Network
    task: Task
    tokenizer: bytes
    pad_id: int


def importable(folder: Path) -> bool:
    """Whether the model of a folder is of a family that attar has a network for."""
    return read_config(folder).get("model_type") in IMPORTED


def check_family(folder: Path) -> None:
    """`ModelError` for a model that cannot be imported."""
    if not importable(folder):
        kind = read_config(folder).get("model_type", "?")
        raise ModelError(
            f"architecture {kind!r} in {folder} cannot be imported; known: {', '.join(IMPORTED)}. "
            "`attar convert` without steps exports any other encoder as it is"
        )


def family_of(folder: Path) -> Family:
    """The family of a model folder; `ModelError` for one that does not become an `Encoder`."""
    check_family(folder)
    kind = read_config(folder)["model_type"]
    if kind not in FAMILIES:
        raise ModelError(f"a {kind} model is imported as a whole, and no other student begins at {folder}; known: "
                         f"{', '.join(FAMILIES)}")  # fmt: skip
    return FAMILIES[kind]


def import_checkpoint(folder: Path) -> Checkpoint:
    """Reads a fine-tuned model without running any of its code; its task comes from its own files."""
    check_family(folder)
    config, tokenizer = read_config(folder), read_tokenizer(folder)
    weights = read_weights(folder / "model.safetensors")
    if (folder / HEADS).is_file():
        weights |= read_weights(folder / HEADS)
    source = None if config["model_type"] == MODERN else _Source(config, FAMILIES[config["model_type"]], weights)
    positions = _size(config, "max_position_embeddings") if source is None else len(source.positions())
    task = read_task(folder, positions)
    try:
        network = imported(config, weights, task) if source is None else source.encoder(task)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    return Checkpoint(network, task, tokenizer, int(config.get("pad_token_id") or 0))


def import_base(folder: Path) -> Checkpoint:
    """The encoder of any model folder, whatever it was trained for: its task is to embed, by mean pooling."""
    family, config = family_of(folder), read_config(folder)
    source = _Source(config, family, read_weights(folder / "model.safetensors"))
    task = Embedding(_size(config, "hidden_size", "dim"), max_length(folder, len(source.positions())))
    try:
        encoder = source.encoder(task)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    return Checkpoint(encoder, task, read_tokenizer(folder), int(config.get("pad_token_id") or 0))


class _Source:
    """The weights of one checkpoint under their own names."""

    def __init__(self, config: Mapping[str, Any], family: Family, weights: Weights) -> None:
        self.config, self.family, self.weights = config, family, weights
        # A base model saved by itself carries no prefix.
        bare = "embeddings.word_embeddings.weight" in weights
        self.prefix = "" if bare else f"{family.prefix}."

    def get(self, name: str) -> Tensor:
        if name not in self.weights:
            raise ModelError(f"the checkpoint lacks the weight {name!r}; it may be truncated")
        return self.weights[name].float()

    def positions(self) -> Tensor:
        """Position embeddings (T, H) from the first position that a token can have."""
        found = self.get(f"{self.prefix}embeddings.position_embeddings.weight")
        if not self.family.pad_offset:
            return found
        fixed = self.family.pad_id
        return found[(int(self.config.get("pad_token_id", 1)) if fixed is None else fixed) + 1 :]

    def relative(self) -> Tensor | None:
        """Attention biases by distance (buckets, heads), if the family has them."""
        if not self.family.relative:
            return None
        found = self.get(f"{self.prefix}{self.family.relative}.weight")
        if len(found) != BUCKETS:
            raise ModelError(f"{len(found)} buckets of relative positions are not supported; known: {BUCKETS}")
        return found

    def head(self, head: Head, kind: str) -> tuple[str | None, str | None]:
        """The checkpoint's names of a head's hidden layer and of its last one."""
        if kind == "multi-task":
            return None, head.name
        own = {"question-answering": "qa_outputs", "token-classification": "classifier", "embeddings": None}
        return (None, own[kind]) if kind in own else (self.family.dense, self.family.classifier)

    def encoder(self, task: Task) -> Encoder:
        """An `Encoder` with these weights and the task's heads."""
        names = {h.name: self.head(h, task.kind) for h in task.heads}
        shape = self.shape(task, names)
        encoder, family = Encoder(shape), self.family
        base = f"{self.prefix}embeddings."
        state = {"words.weight": self.get(base + "word_embeddings.weight"), "positions.weight": self.positions()}
        kinds = self.weights.get(f"{base}token_type_embeddings.weight")
        state["types.weight"] = state["words.weight"].new_zeros(1, shape.hidden) if kinds is None else kinds.float()
        relative = self.relative()
        if relative is not None:
            state |= {f"layers.{i}.relative.weight": relative for i in range(len(shape.layers))}
        for part in ("weight", "bias"):
            state[f"embedding_norm.{part}"] = self.get(f"{base}LayerNorm.{part}")
            for name, (dense, last) in names.items():
                if dense:
                    state[f"heads.{name}.dense.{part}"] = self.get(f"{dense}.{part}")
                if last:
                    state[f"heads.{name}.classifier.{part}"] = self.get(f"{last}.{part}")
            for i in range(len(shape.layers)):
                for ours, theirs in family.names.items():
                    name = f"{self.prefix}{family.layer.format(i)}.{theirs}.{part}"
                    state[f"layers.{i}.{ours}.{part}"] = self.get(name)
        try:
            encoder.load_state_dict(state)
        except RuntimeError as error:  # sizes that do not agree, such as labels against rows of the head
            raise ModelError(f"weights and config.json do not agree: {str(error).splitlines()[-1].strip()}") from error
        return encoder.eval()

    def shape(self, task: Task, names: Mapping[str, tuple[str | None, str | None]]) -> EncoderShape:
        words = self.get(f"{self.prefix}embeddings.word_embeddings.weight")
        config = self.config
        if words.shape[1] != _size(config, "hidden_size", "dim"):
            raise ModelError("embeddings narrower than the hidden size are not supported by this version")
        hidden, heads = int(words.shape[1]), _size(config, "num_attention_heads", "n_heads")
        ffn, count = _size(config, "intermediate_size", "hidden_dim"), _size(config, "num_hidden_layers", "n_layers")
        activation = config.get("hidden_act") or config.get("activation") or "gelu"
        if activation not in {"gelu", "relu"}:
            raise ModelError(f"activation {activation!r} is not supported; known: gelu, relu")
        kinds = self.weights.get(f"{self.prefix}embeddings.token_type_embeddings.weight")
        return EncoderShape(
            vocab=int(words.shape[0]),
            hidden=hidden,
            positions=len(self.positions()),
            layers=tuple(LayerShape(heads, hidden // heads, ffn) for _ in range(count)),
            heads=tuple(self.head_shape(h, hidden, *names[h.name]) for h in task.heads),
            types=1 if kinds is None else int(kinds.shape[0]),
            activation=activation,
            eps=float(config.get("layer_norm_eps", 1e-12)),
            relative=BUCKETS if self.family.relative else 0,
        )

    def head_shape(self, head: Head, hidden: int, dense: str | None, last: str | None) -> HeadShape:
        if last and f"{last}.weight" not in self.weights:
            raise ModelError(f"no head {last!r} among the weights: fine-tune it first (attar run does)")
        width = int(self.get(f"{dense}.weight").shape[0]) if dense else 0
        return head_shape(head, hidden, width, self.family.head_activation)


def _size(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if name in config:
            return int(config[name])
    raise ModelError(f"config.json lacks {names[0]!r}")
