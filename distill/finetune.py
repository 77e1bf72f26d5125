"""Fine-tunes a pretrained encoder into the teacher: a plain Hugging Face folder."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attar.distill.importers import read_config, read_tokenizer
from attar.distill.trainer import Progress, Schedule, seed_everything, train
from attar.runtime.bundle import aside
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, ModelError
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import Tokenizer, pad


@dataclass(frozen=True)
class Settings:
    """`freeze_layers` keeps the embeddings and that many lower layers as pretrained; `max_length` in tokens."""

    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    freeze_layers: int = 0
    dropout: float = 0.1
    max_length: int = 128
    seed: int = 0


def load_classifier(source: Path | str, **options: Any) -> Any:
    """A transformers sequence classifier in fp32 with eager attention, without the library's chatter."""
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return AutoModelForSequenceClassification.from_pretrained(
                source, attn_implementation="eager", dtype=torch.float32, **options
            )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot load {source}: {str(error).splitlines()[0]}") from error


def local_folder(source: Path | str) -> Path:
    """The model's folder; a hub id is looked up through the hub client and its cache."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"no model folder at {source}, and it cannot be had from a hub ({type(error).__name__}); "
            "give a local folder"
        ) from error


def finetune(base: Path | str, data: Examples, settings: Settings, out: Path, progress: Progress) -> None:
    """Trains `base` on labelled texts and writes config.json, model.safetensors and the tokenizer to `out`."""
    labels = tuple(sorted(set(data.labels or ())))
    if len(labels) < 2:
        raise DataError(f"{data.source} has {len(labels)} label(s); a classifier needs examples of at least two")
    if len(data) < settings.batch_size:
        raise DataError(
            f"{data.source} has {len(data)} training examples, fewer than a batch of {settings.batch_size}; "
            "add data or lower batch_size"
        )
    folder = local_folder(base)
    read_config(folder)
    source = read_tokenizer(folder)
    seed_everything(settings.seed)
    names = dict(enumerate(labels))
    model = load_classifier(
        folder, num_labels=len(labels), id2label=names, label2id={v: k for k, v in names.items()},
        ignore_mismatched_sizes=True,
    )  # fmt: skip
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(model.config, name):
            setattr(model.config, name, settings.dropout)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = settings.dropout
    _freeze(model, settings.freeze_layers)
    task = TextClassification(labels, settings.max_length)
    pad_id = int(model.config.pad_token_id or 0)
    rows = Tokenizer(source, settings.max_length, pad_id).encode(data.texts).ids
    targets = torch.from_numpy(task.ids(data.labels or ()))

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids, mask = pad([rows[i] for i in chosen], pad_id)
        logits = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        return torch.nn.functional.cross_entropy(logits.float(), targets[chosen])

    model.train()
    schedule = Schedule(settings.epochs, settings.batch_size, settings.learning_rate, seed=settings.seed)
    train(model.parameters(), [len(r) for r in rows], loss_of, schedule, progress)
    _save(model.eval(), folder, settings.max_length, out)


def _freeze(model: Any, layers: int) -> None:
    base = model.base_model
    frozen = [base.embeddings] if hasattr(base, "embeddings") else []
    stack = getattr(getattr(base, "encoder", None), "layer", None) or getattr(
        getattr(base, "transformer", None), "layer", []
    )
    for module in [*frozen, *list(stack)[:layers]]:
        module.requires_grad_(False)


def _save(model: Any, base: Path, max_length: int, out: Path) -> None:
    from transformers import AutoTokenizer

    with aside(out) as folder:
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.model_max_length = max_length
        tokenizer.save_pretrained(folder)
        # The library rewrites tokenizer.json by its own settings; what was trained with is what must ship.
        (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
