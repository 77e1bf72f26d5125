"""Distils the teacher into a student by any mix of methods: each is a file in distill/methods/ and gives one loss.

With `layers` a new student is started from those layers of the given one; without, training goes on (recovery). The
zeros of a sparse student stay zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from attar.distill import processes
from attar.distill.checkpoint import depth_of
from attar.distill.device import CPU, described
from attar.distill.encoder import resized
from attar.distill.method import Lesson, Method, Weighted, find_method, known
from attar.distill.resume import Keeper, digest
from attar.distill.similarity import resolved
from attar.distill.step import Context, settings_of
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.distill.trainer import Schedule, namer, seed_everything, train
from attar.distill.watch import watched
from attar.distill.zeros import zeros_held
from attar.runtime.errors import SettingsError

TOGETHER = True
"""Several processes train one student (processes.py)."""
DEFAULT: tuple[Mapping[str, Any], ...] = ({"use": "soft_targets"}, {"use": "labels", "weight": 0.2})


@dataclass(frozen=True)
class Settings:
    """`layers` are 1-based layers of the input to start from; `methods` the losses, whose weighted sum is minimised:
    each a table with `use`, the file in distill/methods/, and its settings. `train_words`: word embeddings learn too,
    as new ones of another vocabulary must."""

    layers: tuple[int, ...] = ()
    methods: tuple[Mapping[str, Any], ...] = DEFAULT
    epochs: float = 3
    batch_size: int = 32
    learning_rate: float = 1e-4
    train_words: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.methods:
            raise SettingsError("distill.distil needs at least one method")
        for given in self.methods:
            method_settings(given)


def method_settings(given: Mapping[str, Any]) -> Weighted:
    """The settings of one entry of `methods`; `SettingsError` names what is wrong with it."""
    if "use" not in given:
        raise SettingsError(f"a method lacks 'use', its name: one of {', '.join(known())}")
    use = given["use"]
    settings: Weighted = settings_of(
        find_method(use).Settings, {k: v for k, v in given.items() if k != "use"}, f"method {use}"
    )
    weights = settings.weight if isinstance(settings.weight, tuple) else (settings.weight,) * 2
    if len(weights) != 2 or not all(isinstance(w, int | float) and w >= 0 for w in weights):
        raise SettingsError(f"method {use}: weight must be a number from 0 up, or two of them, not {settings.weight!r}")
    return settings


def take_layers(student: Student, layers: Sequence[int]) -> Student:
    """A student of the chosen 1-based layers, with copies of their weights."""
    old = student.transformer
    count = len(old.layers)
    wrong = [i for i in layers if not 1 <= i <= count]
    if wrong:
        raise SettingsError(f"layers: {wrong[0]} is not one of the {count} layers (counted from 1)")
    encoder = resized(old, tuple(old.shape.layers[i - 1] for i in layers))
    for place, i in enumerate(layers):
        encoder.layers[place].load_state_dict(old.layers[i - 1].state_dict())
    return replace(student, encoder=encoder)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The trained student; the input is untouched."""
    student = take_layers(student, settings.layers) if settings.layers else student.copy()
    network = student.encoder
    chosen = [
        (find_method(given["use"]), resolved(method_settings(given), student, context)) for given in settings.methods
    ]
    depth = depth_of(context.teacher)
    states = [name for module, own in chosen for name in module.needs(own, student, depth)]
    taught = context.supervision(student, tuple(dict.fromkeys(states)))
    seed_everything(settings.seed)
    methods = [(own, module.build(own, student, taught, context).to(context.device)) for module, own in chosen]
    network.to(context.device)

    def loss_of(rows: list[int], progress: float) -> Tensor:
        batch = taught.batch(rows).on(context.device)
        with watched(network, [name for _, m in methods for name in m.watches]) as inner:
            found = processes.outputs_of(network, batch.inputs, inner)
        lesson = Lesson(batch, found, inner)
        losses = [own.at(progress) * method(lesson) for own, method in methods]
        return torch.stack([loss.float() for loss in losses]).sum()

    network.words.requires_grad_(settings.train_words)
    network.train()
    schedule = Schedule(settings.epochs, settings.batch_size, settings.learning_rate, seed=settings.seed)
    parameters = [*network.parameters(), *(p for _, m in methods for p in m.parameters())]
    limits = [m.rows for _, m in methods]
    # Without a teacher unlabelled rows would be steps that teach nothing.
    useful = None if None in limits else max(limit or 0 for limit in limits)
    lengths = [len(r) for r in taught.encoded.ids[:useful]]
    with zeros_held(student):
        final = train(
            parameters, lengths, loss_of, schedule, context.progress,
            keeper=_keeper(network, methods, settings, taught, context),
            text_of=namer(taught.encoded, context.train.texts + context.unlabelled.texts),
        )  # fmt: skip
    network.requires_grad_(True).eval().to(CPU)
    facts: dict[str, Any] = {"final_loss": round(final, 5), "trained_on": described(context.device)}
    if any(given.get("match") == "auto" for given in settings.methods):
        facts["matched"] = [list(getattr(own, "match", ())) for own, _ in methods]
    return student.with_step("distill.distil", asdict(settings), **facts)


def _keeper(
    network: nn.Module,
    methods: Sequence[tuple[Weighted, Method]],
    settings: Settings,
    taught: Supervision,
    context: Context,
) -> Keeper | None:
    """What keeps the checkpoint of student and methods, whose projections learn too; None where none is wanted."""
    if context.checkpoints is None:
        return None
    data = [context.train.digest(), context.unlabelled.digest(), digest(taught.targets.heads)]
    about = [asdict(settings), [asdict(own) for own, _ in methods], *data]
    return Keeper(context.checkpoints, nn.ModuleList([network, *(m for _, m in methods)]), about)
