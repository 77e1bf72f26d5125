"""Patient distillation (PKD, Sun et al. 2019, section 3.2): the direction of the first token's state after each layer.

The last layer is left out, as in the paper: its state is what the output head reads, which soft targets teach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from attar.distill.distributions import masked_mean
from attar.distill.mapping import layers_for
from attar.distill.method import Lesson, Method, Weighted, projection
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`match` as in hidden_states, one teacher layer for each of the student's: `even` is PKD-skip, `last` PKD-last.

    `last_layer`: whether the student's last layer learns too.
    """

    match: tuple[int, ...] | str = "even"
    last_layer: bool = False


def patient(student: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
    """Squared distance of the normalised states (B, H), mean over the `known` texts (B,) (equation 7)."""
    difference = F.normalize(student.float(), dim=-1) - F.normalize(teacher.float(), dim=-1)
    return masked_mean(difference.pow(2).sum(-1), known)


class _Patient(Method):
    def __init__(self, taught: Supervision, layers: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.taught, self.layers = taught, layers
        self.projections = nn.ModuleList(projection(width, taught.width(f"hidden{layer}")) for layer in layers)

    def forward(self, lesson: Lesson) -> Tensor:
        loss = lesson.batch.mask.new_zeros(()).float()
        taught = lesson.found.hidden[: len(self.layers)]
        for mine, layer, project in zip(taught, self.layers, self.projections, strict=True):
            wanted, known = self.taught.states(f"hidden{layer}", lesson.batch, 1)
            loss = loss + patient(project(mine[:, 0]), wanted[:, 0], known[:, 0])
        return loss


def chosen(settings: Settings, student: Student, depth: int) -> tuple[int, ...]:
    """The teacher's layer of each of the student's that learns, from the first on."""
    layers = layers_for(settings.match, student, depth)
    layers = layers if settings.last_layer else layers[:-1]
    if not layers:
        raise SettingsError("method patient leaves out the last layer, and the student has no other; set last_layer")
    return layers


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    return tuple(f"hidden{layer}" for layer in chosen(settings, student, depth))


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _Patient(taught, chosen(settings, student, taught.depth), student.encoder.shape.hidden)
