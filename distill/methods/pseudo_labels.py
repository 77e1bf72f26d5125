"""Hard labels for the unlabelled texts (pseudo-labels, Lee 2013): the teacher's own, or those that spread from labelled
texts over the teacher's embeddings (label propagation, Iscen et al. 2019; distill/data/propagate.py).

Only texts whose label is sure enough are learned from. The training texts have labels of their own: see `labels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.distill.data.neighbours import Floats
from attar.distill.data.propagate import UNKNOWN, propagate
from attar.distill.heads import pool
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.objectives import hard
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import IGNORED, Head

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision

WAYS = ("teacher", "propagation")


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`by`: whose labels, the `teacher`'s or those that `propagation` finds by its last states of the first token.
    `threshold`: the probability that a label must have to count. `neighbours` of each text and `alpha`, how much of its
    label comes from them, are propagation's."""

    by: str = "teacher"
    threshold: float = 0.9
    neighbours: int = 10
    alpha: float = 0.99

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise SettingsError(f"by must be one of {', '.join(WAYS)}, not {self.by!r}")
        if not 0 <= self.threshold <= 1:
            raise SettingsError(f"threshold must be between 0 and 1, not {self.threshold}")


def sure(probabilities: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """The most probable class of each row (N, C), `IGNORED` below the threshold or where nothing is known: (N,)."""
    best = probabilities.max(1)
    return np.where((best >= threshold) & (best > 0), probabilities.argmax(1), IGNORED)


def spread(embeddings: Floats, given: NDArray[np.int64], settings: Settings) -> NDArray[np.int64]:
    """Labels (N,) of texts with embeddings (N, D), found from the first of them, which have the labels `given` (L,)."""
    known = np.where(given == IGNORED, UNKNOWN, given)
    rest = np.full(len(embeddings) - len(given), UNKNOWN)
    found = propagate(embeddings, np.concatenate([known, rest]), settings.neighbours, settings.alpha)
    return sure(found, settings.threshold)


class _PseudoLabels(Method):
    def __init__(self, settings: Settings, student: Student, taught: Supervision, context: Context) -> None:
        super().__init__()
        self.heads = _classes(student)
        encoded = student.encode(context.train.texts)
        self.labelled, count = len(encoded.ids), len(taught.encoded.ids)
        if self.labelled == count:
            raise SettingsError("pseudo_labels labels unlabelled texts, and there are none: give [data] unlabelled")
        if settings.by == "teacher":
            said = {h.name: torch.from_numpy(taught.targets.heads[h.name][taught.source]).double() for h in self.heads}
            self.labels = {name: sure(torch.softmax(v, -1).numpy(), settings.threshold) for name, v in said.items()}
            return
        if context.train.labels is None:
            raise SettingsError(
                'pseudo_labels: labels spread from labelled texts, and there are none; set by = "teacher"'
            )
        targets = student.task.targets(encoded, context.train.labels)
        vectors = _embeddings(taught, count)
        self.labels = {h.name: spread(vectors, np.asarray(targets[h.name]), settings) for h in self.heads}

    def forward(self, lesson: Lesson) -> Tensor:
        """The unlabelled rows come behind all others; 0 without a sure one among them."""
        batch, found = lesson.batch, lesson.found.heads
        losses = [found[self.heads[0].name].sum() * 0.0]
        places = [place for place, row in enumerate(batch.rows) if row >= self.labelled]
        for head in self.heads if places else []:
            target = torch.from_numpy(self.labels[head.name][[batch.rows[p] for p in places]]).to(batch.ids.device)
            losses.append(hard(head, found[head.name][places], target, batch.mask[places]))
        return torch.stack(losses).sum()


def _embeddings(taught: Supervision, count: int) -> Floats:
    """(R, H): the teacher's last states of the first token of every row."""
    found = []
    for start in range(0, count, 64):
        states, known = taught.states(f"hidden{taught.depth}", taught.batch(list(range(count))[start : start + 64]), 1)
        found.append(pool(states.float(), known, "first"))
    return np.asarray(torch.cat(found).numpy(), dtype=np.float32)


def _classes(student: Student) -> list[Head]:
    """The heads that give a whole text one class."""
    return [head for head in student.task.heads if head.objective == "classes" and head.reads != "tokens"]


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    if not _classes(student):
        raise SettingsError(
            f"pseudo_labels gives each text one class, and no head of this {student.task.kind} student has classes of "
            "texts; drop method pseudo_labels"
        )
    return (f"hidden{depth}",) if settings.by == "propagation" else ()


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _PseudoLabels(settings, student, taught, context)
