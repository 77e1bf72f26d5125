"""Distils the teacher into a student: soft targets, hidden states and, where known, the true labels.

With `layers` a new student is started from those layers of the given one; without, training goes on (recovery).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from attar.distill.batches import Batch, gather
from attar.distill.encoder import Outputs, resized
from attar.distill.methods.hidden_states import hidden_states
from attar.distill.objectives import hard
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.trainer import Schedule, seed_everything, train
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import IGNORED, Targets


@dataclass(frozen=True)
class Settings:
    """`layers` are 1-based layers of the input to start from; `match` the teacher layers that the student's layers
    imitate, one each; the weights are those of the three losses. `train_words`: word embeddings learn too, as new ones
    of another vocabulary must."""

    layers: tuple[int, ...] = ()
    match: tuple[int, ...] = ()
    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 1e-4
    temperature: float = 2.0
    soft_weight: float = 1.0
    hidden_weight: float = 1.0
    label_weight: float = 0.2
    train_words: bool = False
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
    taught = context.supervision(student, settings.match)
    seed_everything(settings.seed)
    weight = settings.label_weight if context.train.labels else 0.0
    known = student.encode(context.train.texts)
    labels = student.task.targets(known, context.train.labels or ()) if weight else {}

    def loss_of(chosen: list[int]) -> torch.Tensor:
        batch = taught.batch(chosen)
        found = encoder(*batch.inputs)
        loss = settings.soft_weight * taught.soft_loss(found, batch, settings.temperature)
        for mine, layer in zip(found.hidden, settings.match, strict=False):
            wanted, real = taught.states(layer, batch, mine.shape[1])
            loss = loss + settings.hidden_weight * hidden_states(mine, wanted, real)
        if weight:
            loss = loss + weight * label_loss(student, found, labels, batch, len(known.ids))
        return loss

    encoder.words.requires_grad_(settings.train_words)
    encoder.train()
    schedule = Schedule(settings.epochs, settings.batch_size, settings.learning_rate, seed=settings.seed)
    final = train(encoder.parameters(), [len(r) for r in taught.encoded.ids], loss_of, schedule, context.progress)
    encoder.requires_grad_(True).eval()
    return student.with_step("distill.distil", asdict(settings), final_loss=round(final, 5))


def label_loss(student: Student, found: Outputs, labels: Targets, batch: Batch, known: int) -> torch.Tensor:
    """The loss towards the true labels of the labelled rows, which come before the `known`-th; 0 without any."""
    places = [place for place, row in enumerate(batch.rows) if row < known]
    losses = [found.heads[student.task.heads[0].name].sum() * 0.0]
    if places:
        rows, width = [batch.rows[p] for p in places], batch.ids.shape[1]
        for head in student.task.heads:
            target = gather(labels[head.name], rows, width, IGNORED)
            losses.append(hard(head, found.heads[head.name][places], target, batch.mask[places]))
    return torch.stack(losses).sum()
