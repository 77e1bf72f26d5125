"""Distils the teacher into a student: soft targets, hidden states and, where known, the true labels.

With `layers` a new student is started from those layers of the given one; without, training goes on (recovery).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from attar.distill.encoder import resized
from attar.distill.methods.hidden_states import hidden_states
from attar.distill.methods.soft_targets import soft_targets
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.trainer import Schedule, seed_everything, train
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import pad


@dataclass(frozen=True)
class Settings:
    """`layers` are 1-based layers of the input to start from; `match` the teacher layers that the student's layers
    imitate, one each; the weights are those of the three losses."""

    layers: tuple[int, ...] = ()
    match: tuple[int, ...] = ()
    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 1e-4
    temperature: float = 2.0
    soft_weight: float = 1.0
    hidden_weight: float = 1.0
    label_weight: float = 0.2
    seed: int = 0


def take_layers(student: Student, layers: Sequence[int]) -> Student:
    """A student of the chosen 1-based layers, with copies of their weights."""
    count = len(student.encoder.layers)
    wrong = [i for i in layers if not 1 <= i <= count]
    if wrong:
        raise SettingsError(f"layers: {wrong[0]} is not one of the {count} layers (counted from 1)")
    shapes = tuple(student.encoder.shape.layers[i - 1] for i in layers)
    encoder = resized(student.encoder, shapes)
    for new, old in enumerate(layers):
        encoder.layers[new].load_state_dict(student.encoder.layers[old - 1].state_dict())
    return replace(student, encoder=encoder)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The trained student; the input is untouched."""
    student = take_layers(student, settings.layers) if settings.layers else student.copy()
    encoder = student.encoder
    if settings.match and len(settings.match) != len(encoder.layers):
        raise SettingsError(f"match names {len(settings.match)} teacher layers, the student has {len(encoder.layers)}")
    targets = context.targets(settings.match)
    seed_everything(settings.seed)
    labels = torch.from_numpy(student.task.ids(context.train.labels or ()))
    logits = torch.from_numpy(targets.logits)

    def loss_of(chosen: list[int]) -> torch.Tensor:
        ids, mask = (torch.from_numpy(a) for a in pad([targets.rows[i] for i in chosen], student.pad_id))
        found = encoder(ids, mask)
        loss = settings.soft_weight * soft_targets(found.logits, logits[chosen], settings.temperature)
        for mine, layer in zip(found.hidden, settings.match, strict=False):
            width = mine.shape[1]
            wanted = targets.states(layer, chosen, width)
            loss = loss + settings.hidden_weight * hidden_states(mine, wanted, mask[:, :width])
        known = [row for row, i in enumerate(chosen) if i < len(labels)]
        if known and settings.label_weight:
            truth = labels[[chosen[row] for row in known]]
            loss = loss + settings.label_weight * torch.nn.functional.cross_entropy(found.logits[known], truth)
        return loss

    encoder.words.requires_grad_(False)
    encoder.train()
    schedule = Schedule(settings.epochs, settings.batch_size, settings.learning_rate, seed=settings.seed)
    final = train(encoder.parameters(), [len(r) for r in targets.rows], loss_of, schedule, context.progress)
    encoder.requires_grad_(True).eval()
    return student.with_step("distill.distil", asdict(settings), final_loss=round(final, 5))
