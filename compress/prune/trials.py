"""What a smaller block costs in accuracy, by trial: how far the student's own outputs move when it alone is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attar.compress.prune.shrink import outward_moments, refitted
from attar.compress.prune.units import OUTWARD, Part, columns
from attar.distill.batches import Batch, batches
from attar.distill.encoder import Encoder
from attar.distill.objectives import soft
from attar.distill.student import Student
from attar.runtime.tokenizer import Text

PROBES = 64
"""Texts of a trial."""

Importances = Mapping[Part, Sequence[Tensor]]


def best(importance: Tensor, count: int) -> Tensor:
    """The most important units (count,) of a layer, sorted."""
    return importance.topk(count).indices.sort().values


def losses(
    student: Student, texts: Sequence[Text], importances: Importances, sizes: Mapping[tuple[int, Part], Sequence[int]]
) -> dict[tuple[int, Part], list[float]]:
    """For each block (layer, part) and each of its sizes the loss of a student in which it has only so many units.

    The most important ones stay, and the matrix behind them is refitted on the texts.
    """
    trial = student.copy()
    ruler = Ruler.of(student, texts[:PROBES])
    seen = {part: outward_moments(student, texts, part) for part in importances}
    found: dict[tuple[int, Part], list[float]] = {}
    for (layer, part), counts in sizes.items():
        matrix = trial.transformer.layers[layer].get_submodule(OUTWARD[part])
        assert isinstance(matrix, nn.Linear)
        shape, weight, bias = trial.transformer.shape.layers[layer], matrix.weight.detach().clone(), matrix.bias.clone()
        found[layer, part] = []
        for count in counts:
            kept = columns(shape, part, best(importances[part][layer], count))
            cut, shift = (t.clone() for t in refitted(matrix, seen[part][layer], kept))
            with torch.no_grad():
                # Columns of 0 compute what a smaller matrix would.
                matrix.weight.zero_()[:, kept] = cut
                matrix.bias.copy_(shift)
                found[layer, part].append(ruler.distance(trial.transformer))
                matrix.weight.copy_(weight)
                matrix.bias.copy_(bias)
    return found


@dataclass(frozen=True)
class Ruler:
    """Batches of texts with the outputs of the student as it was."""

    student: Student
    batches: Sequence[tuple[Batch, Mapping[str, Tensor]]]

    @staticmethod
    def of(student: Student, texts: Sequence[Text]) -> Ruler:
        with torch.no_grad():
            rows = batches(student.encode(texts), student.pad_id, 32)
            return Ruler(student, [(batch, student.encoder(*batch.inputs).heads) for batch in rows])

    def distance(self, encoder: Encoder) -> float:
        """Of an encoder's outputs to those, summed over the heads, mean over the rows."""
        total = 0.0
        with torch.no_grad():
            for batch, own in self.batches:
                found = encoder(*batch.inputs).heads
                moved = [soft(h, found[h.name], own[h.name], batch.mask, 1.0).item() for h in self.student.task.heads]
                total += sum(moved) * len(batch.rows)
        return total / sum(len(batch.rows) for batch, _ in self.batches)
