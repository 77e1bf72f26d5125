"""Fine-tunes a pretrained encoder into the teacher: a plain Hugging Face folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from attar.distill import processes
from attar.distill.batches import collate, gather
from attar.distill.checkpoint import read_config, read_tokenizer
from attar.distill.device import CPU, device_of
from attar.distill.huggingface import HuggingFace
from attar.distill.objectives import hard
from attar.distill.resume import Checkpoints, Keeper
from attar.distill.trainer import Progress, Schedule, namer, seed_everything, train
from attar.runtime.bundle import aside
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, ModelError
from attar.runtime.tasks.base import IGNORED, Task
from attar.runtime.tokenizer import Encoded


@dataclass(frozen=True)
class Settings:
    """`freeze_layers` keeps the embeddings and that many lower layers as pretrained; `max_length` in tokens.

    `head_rate`: how many times the learning rate the new heads get.
    """

    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 5e-5
    head_rate: float = 1.0
    freeze_layers: int = 0
    dropout: float = 0.1
    max_length: int = 128
    seed: int = 0


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


def finetune(
    base: Path | str, task: Task, data: Examples, settings: Settings, out: Path, progress: Progress,
    checkpoints: Checkpoints | None = None, device: torch.device = CPU,
) -> None:  # fmt: skip
    """Trains `base` on labelled texts and writes config.json, model.safetensors and the tokenizer to `out`.

    Of several processes the first one writes.
    """
    if data.labels is None:
        raise DataError(
            f"{data.source} has no labels to fine-tune with; give labels, or a teacher with fine_tuned = true"
        )
    if len(data) < settings.batch_size:
        raise DataError(
            f"{data.source} has {len(data)} training examples, fewer than a batch of {settings.batch_size}; "
            "add data or lower batch_size"
        )
    folder = local_folder(base)
    read_config(folder)
    source = read_tokenizer(folder)
    seed_everything(settings.seed)
    model = HuggingFace(folder, task, new=True).to(device)
    _set_dropout(model, settings.dropout)
    _freeze(model.model, settings.freeze_layers)
    encoded = task.encode(task.reader(source, model.pad_id), data.texts)
    loss_of = _loss(model, encoded, data)
    model.train()
    schedule = Schedule(settings.epochs, settings.batch_size, settings.learning_rate, seed=settings.seed)
    groups, about = _groups(model, settings), [asdict(settings), task.to_json(), data.digest()]
    keeper = Keeper(checkpoints, model, about) if checkpoints else None
    named = namer(encoded, data.texts)
    train(groups, [len(r) for r in encoded.ids], loss_of, schedule, progress, keeper=keeper, text_of=named)
    if processes.leads():
        _save(model.eval().to(CPU), folder, out)


def _loss(model: HuggingFace, encoded: Encoded, data: Examples) -> Callable[[list[int], float], torch.Tensor]:
    task = model.task
    targets, device = task.targets(encoded, data.labels or ()), device_of(model)

    def loss_of(chosen: list[int], _: float) -> torch.Tensor:
        batch = collate(encoded, chosen, model.pad_id).on(device)
        found = processes.outputs_of(model, batch.inputs).heads
        width = batch.ids.shape[1]
        losses = [
            hard(h, found[h.name].float(), gather(targets[h.name], chosen, width, IGNORED).to(device), batch.mask)
            for h in task.heads
        ]
        return torch.stack(losses).sum()

    return loss_of


def _groups(model: HuggingFace, settings: Settings) -> list[dict[str, Any]]:
    """The encoder at the learning rate, and the heads on top of it at `head_rate` times that."""
    base = {id(p) for p in model.model.base_model.parameters()}
    heads = [p for p in model.parameters() if id(p) not in base]
    body = [p for p in model.parameters() if id(p) in base]
    return [{"params": body, "rate": 1.0}, {"params": heads, "rate": settings.head_rate}]


def _set_dropout(model: HuggingFace, dropout: float) -> None:
    config = model.model.config
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout


def _freeze(model: Any, layers: int) -> None:
    base = model.base_model
    frozen = [base.embeddings] if layers and hasattr(base, "embeddings") else []
    stack = getattr(getattr(base, "encoder", None), "layer", None) or getattr(
        getattr(base, "transformer", None), "layer", getattr(base, "layers", [])
    )
    for module in [*frozen, *list(stack)[:layers]]:
        module.requires_grad_(False)


def _save(model: HuggingFace, base: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    with aside(out) as folder:
        model.save(folder)
        tokenizer = AutoTokenizer.from_pretrained(base)
        tokenizer.model_max_length = model.task.max_length
        tokenizer.save_pretrained(folder)
        # The library rewrites tokenizer.json by its own settings; what was trained with is what must ship.
        (folder / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
