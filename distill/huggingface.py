"""A teacher in PyTorch: the transformers model of a folder, with the outputs that its task names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attar.distill.checkpoint import HEADS, POOLING, TASK
from attar.distill.heads import OutputHead, Outputs, head_shape
from attar.distill.watch import watched
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Task

_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
"""Tasks that transformers has a class for; any other is its base model with heads of ours."""


def load_transformers(
    kind: str, source: Path | str, options: Mapping[str, Any], attention: str | None = "eager"
) -> Any:
    """The transformers model for a task kind in fp32, without the library's chatter.

    `attention` None: the fastest implementation that the library has for the family.
    """
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model_class = getattr(transformers, _CLASSES.get(kind, "AutoModel"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model_class.from_pretrained(
                source, attn_implementation=attention, dtype=torch.float32, local_files_only=True, **options
            )
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"transformers cannot load {source}: {reason}") from error


PROJECTIONS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), ("encoder.layer", "attention.self.")),
    "distilbert": ("transformer.layer", "attention.{}_lin"),
    "mpnet": ("encoder.layer", "attention.attn.{}"),
}
"""By family the stack of layers, and in a layer the query, key or value; {} stands for its first letter."""


class HuggingFace(nn.Module):
    """The model of a folder, for one task. `new`: a pretrained encoder whose heads are still to be trained."""

    def __init__(self, folder: Path, task: Task, *, new: bool = False, attention: str | None = "eager") -> None:
        super().__init__()
        self.task = task
        outputs = outputs_of(task) if new else {}
        options = {**outputs, "ignore_mismatched_sizes": True} if outputs else {}
        self.model = load_transformers(task.kind, folder, options, attention)
        self.own = nn.ModuleDict()
        if task.kind not in _CLASSES:
            hidden = int(self.model.config.hidden_size)
            self.own = nn.ModuleDict({h.name: OutputHead(hidden, head_shape(h, hidden)) for h in task.heads})
            if not new and (folder / HEADS).is_file():
                self._load_heads(folder / HEADS)
        self.typed = int(getattr(self.model.config, "type_vocab_size", 0) or 0) > 1
        self.layers = int(self.model.config.num_hidden_layers)
        self.hidden_size = int(self.model.config.hidden_size)
        self.pad_id = int(self.model.config.pad_token_id or 0)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None, states: Sequence[str] = ()) -> Outputs:
        """Token ids, mask and token types (B, T); `hidden` of the outputs are the named `states` (B, T, H)."""
        given = {"token_type_ids": types} if self.typed and types is not None else {}
        layers = any(name.startswith("hidden") for name in states)
        inside = {name: self.inside(name) for name in states if not name.startswith("hidden")}
        with watched(self.model, list(inside.values())) as inner:
            found = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=layers, **given)
        hidden = tuple(
            inner[inside[name]] if name in inside else found.hidden_states[int(name.removeprefix("hidden"))]
            for name in states
        )
        if self.own:
            heads = {name: head(found.last_hidden_state, mask) for name, head in self.own.items()}
        elif self.task.kind == "question-answering":
            heads = {self.task.heads[0].name: torch.stack([found.start_logits, found.end_logits], -1)}
        else:
            heads = {self.task.heads[0].name: found.logits}
        return Outputs(heads, hidden)

    def inside(self, state: str) -> str:
        """The module that gives a state like `query4`: the fourth layer's queries, all heads side by side."""
        part, layer = state.rstrip("0123456789"), int(state.lstrip("abcdefghijklmnopqrstuvwxyz")) - 1
        names = PROJECTIONS.get(self.model.config.model_type)
        if names is None:
            raise ModelError(
                f"the attention of a {self.model.config.model_type} teacher cannot be read; its hidden states can"
            )
        stack, query = names
        module = query.replace("{}", part[0]) if "{}" in query else f"{query}{part}"
        prefix = "" if self.model.base_model is self.model else f"{self.model.base_model_prefix}."
        return f"{prefix}{stack}.{layer}.{module}"

    def save(self, folder: Path) -> None:
        """config.json, model.safetensors, the task, and where transformers has no class for it, the heads."""
        self.model.save_pretrained(folder)
        record = json.dumps(self.task.to_json(), indent=1, ensure_ascii=False)
        (folder / TASK).write_text(record + "\n", encoding="utf-8")
        if any(True for _ in self.own.parameters()):
            state = {
                f"{n}.{part}": getattr(h.classifier, part) for n, h in self.own.items() for part in ("weight", "bias")
            }
            save_file({k: v.detach().contiguous() for k, v in state.items()}, folder / HEADS)
        if self.task.kind == "embeddings":
            save_pooling(self.task, folder)

    def _load_heads(self, path: Path) -> None:
        weights = load_file(path)
        for name, head in self.own.items():
            assert isinstance(head, OutputHead)
            head.classifier.load_state_dict({part: weights[f"{name}.{part}"] for part in ("weight", "bias")})


def outputs_of(task: Task) -> dict[str, Any]:
    """What config.json says of a task's outputs."""
    names = getattr(task, "labels", None) or getattr(task, "tags", None)
    options: dict[str, Any] = {}
    if task.kind == "regression":
        options = {"num_labels": 1, "problem_type": "regression"}
    elif task.kind in ("text-classification", "token-classification"):
        options = {
            "num_labels": len(names or ()), "id2label": dict(enumerate(names or ())),
            "label2id": {v: k for k, v in enumerate(names or ())},
        }  # fmt: skip
        if task.heads[0].objective == "labels":
            options["problem_type"] = "multi_label_classification"
    return options


def save_pooling(task: Task, folder: Path) -> None:
    """The files by which sentence-transformers knows how to pool."""
    head = task.heads[0]
    modes = {"mean": "mean_tokens", "first": "cls_token", "max": "max_tokens"}
    pooling: dict[str, Any] = {f"pooling_mode_{theirs}": head.reads == ours for ours, theirs in modes.items()}
    (folder / POOLING).parent.mkdir(exist_ok=True)
    (folder / POOLING).write_text(json.dumps({"word_embedding_dimension": head.outputs, **pooling}, indent=1))
    kinds = ["Transformer", "Pooling", *(["Normalize"] if head.unit else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else f"{i}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=1))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": task.max_length}))
