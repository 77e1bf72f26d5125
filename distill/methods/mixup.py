"""Mixtures of texts inside the student (Manifold Mixup, Verma et al. 2019; for distillation MixKD, Liang et al. 2021).

After a layer, each row's states become a weighted mean of its own and of another row's of the batch, the layers above
go on with that, and what comes out is to be the same mixture of what the teacher says of the two texts (as labels are
mixed in Verma et al. 2019, section 2, and of sentences in Guo et al. 2019). MixKD asks the teacher itself about each
mixture; here its outputs are computed once for every text, and are mixed instead. It costs a second pass of the
student. Heads that answer token by token learn nothing: a token of a mixture is of no one place in a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.distill.batches import Batch
from attar.distill.encoder import Encoder
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.objectives import soft
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Head

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`layer`: after which of the student's layers states are mixed; 0: its embeddings. A row's own share is drawn from
    Beta(`alpha`, `alpha`): small values leave most texts nearly as they are. `temperature` as in soft_targets."""

    alpha: float = 0.4
    layer: int = 0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.temperature > 0):
            raise SettingsError(f"alpha and temperature must be above 0, not {self.alpha} and {self.temperature}")


def mixture(objective: str, own: Tensor, other: Tensor, share: Tensor, temperature: float) -> Tensor:
    """Raw outputs (B, C) that mean `share` (B, 1) of `own` and the rest of `other`, both (B, C).

    Of classes and of labels distributions are mixed, as the temperature softens them; values and vectors as they are.
    """
    if objective not in ("classes", "labels"):
        return share * own + (1 - share) * other

    def logarithm(of: Tensor, with_it: Tensor) -> Tensor:
        return torch.logaddexp(share.log() + of, (1 - share).log() + with_it)

    a, b = own / temperature, other / temperature
    if objective == "classes":
        return temperature * logarithm(torch.log_softmax(a, -1), torch.log_softmax(b, -1))
    return temperature * (logarithm(F.logsigmoid(a), F.logsigmoid(b)) - logarithm(F.logsigmoid(-a), F.logsigmoid(-b)))


@contextmanager
def mixing(network: Encoder, layer: int, partner: Tensor, share: Tensor) -> Iterator[None]:
    """While open, the network mixes the states of each row after `layer` with those of the row `partner` (B,), of which
    it keeps its own `share` (B,); from there on a token counts where either row has one. Padding adds nothing."""

    def states(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, bias, *rest = given
        x = x * (bias == 0)[:, 0, 0, :, None]  # 0 at tokens, very negative at padding
        own = share[:, None, None].to(x.dtype)
        return own * x + (1 - own) * x[partner], torch.maximum(bias, bias[partner]), *rest

    def above(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, bias, *rest = given
        return x, torch.maximum(bias, bias[partner]), *rest

    def reading(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, mask = given
        return x, torch.maximum(mask, mask[partner])

    hooks = [(network.layers[layer], states)]
    hooks += [(each, above) for each in network.layers[layer + 1 :]]
    hooks += [(head, reading) for head in network.heads.values()]
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Mixup(Method):
    def __init__(self, settings: Settings, student: Student, taught: Supervision) -> None:
        super().__init__()
        # Inside the student the network is no part of this module: it has its place in checkpoints already.
        self.settings, self.student, self.taught = settings, student, taught
        self.heads = _whole(student)

    def forward(self, lesson: Lesson) -> Tensor:
        """Draws from the generator whose state checkpoints hold."""
        count, alpha = len(lesson.batch.rows), torch.tensor(float(self.settings.alpha))
        drawn = torch.randperm(count), torch.distributions.Beta(alpha, alpha).sample((count,))
        return self.loss(lesson.batch, *(values.to(lesson.batch.ids.device) for values in drawn))

    def loss(self, batch: Batch, partner: Tensor, share: Tensor) -> Tensor:
        """The loss where row i keeps `share[i]` and gets the rest from row `partner[i]`, both (B,)."""
        network, temperature = self.student.transformer, self.settings.temperature
        with mixing(network, self.settings.layer, partner, share):
            found = network(*batch.inputs)
        losses = []
        for head in self.heads:
            said, _ = self.taught.outputs(head, batch)
            wanted = mixture(head.objective, said, said[partner], share[:, None], temperature)
            losses.append(soft(head, found.heads[head.name], wanted, batch.mask, temperature))
        return torch.stack(losses).sum()


def _whole(student: Student) -> Sequence[Head]:
    """The heads that say one thing of a whole text."""
    return [head for head in student.task.heads if head.reads != "tokens"]


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    if not isinstance(student.encoder, Encoder):
        raise SettingsError(f"a {student.encoder.shape.kind} student has no states to mix; drop method mixup")
    if not 0 <= settings.layer < student.encoder.depth:
        raise SettingsError(
            f"mixup: layer {settings.layer} has no layer above it: the student has {student.encoder.depth}, and 0 are "
            "its embeddings"
        )
    if not _whole(student):
        raise SettingsError(f"mixup mixes whole texts, and {student.task.kind} answers for tokens; drop method mixup")
    return ()


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    return _Mixup(settings, student, taught)
