"""Attention transfer: each of the student's layers attends as the teacher's does that it is matched to.

Attention is computed anew from queries and keys. Two consequences: where the student has another vocabulary, both
attend over the student's tokens that are aligned with one of the teacher's; and biases by distance, which MPNet adds
to the scores, would be missing, so such models are refused. Where a layer computes only the first token's row, only
that row is compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attar.distill.checkpoint import read_config
from attar.distill.distributions import divergence, log_attention, masked_mean, scores
from attar.distill.mapping import layers_for
from attar.distill.method import Lesson, Method, Weighted
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision

DISTANCES = ("kl", "mse", "scores")


@dataclass(frozen=True, kw_only=True)
class Settings(Weighted):
    """`match` as in hidden_states, but without the embeddings (0).

    `distance`: `kl`, the divergence of attention distributions (MobileBERT, Sun et al. 2020, section 3.4); `mse`, their
    mean squared difference; or `scores`, that of the scores before the softmax (TinyBERT, Jiao et al. 2020,
    equation 7).
    """

    match: tuple[int, ...] | str = "even"
    distance: str = "kl"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise SettingsError(f"distance must be one of {', '.join(DISTANCES)}, not {self.distance!r}")


def attention(student: Tensor, teacher: Tensor, known: Tensor, distance: str) -> Tensor:
    """Distance of scores (B, h, Q, K) and (B, g, Q, K) over `known` (B, K) tokens; the first Q of these are the rows.

    Head by head; where the numbers of heads differ, of the mean over the heads on each side.
    """
    rows = known[:, : student.shape[2]]
    if distance != "scores":
        student, teacher = log_attention(student, known), log_attention(teacher, known)
    if student.shape[1] != teacher.shape[1]:
        mean = _mean_score if distance == "scores" else _mean_log
        student, teacher = mean(student), mean(teacher)
    if distance == "kl":
        return divergence(teacher, student, rows)
    difference = student - teacher if distance == "scores" else student.exp() - teacher.exp()
    columns = known[:, None, None, :].to(difference.dtype)
    squares = (difference.pow(2) * columns).sum(-1) / columns.sum(-1).clamp_min(1)
    return masked_mean(squares.mean(1), rows)


def _mean_score(found: Tensor) -> Tensor:
    return found.mean(1, keepdim=True)


def _mean_log(found: Tensor) -> Tensor:
    """The logarithm of the mean probability over the heads (B, h, Q, K) -> (B, 1, Q, K)."""
    return torch.logsumexp(found, 1, keepdim=True) - math.log(found.shape[1])


def attention_heads(folder: Path) -> int:
    """How many heads each layer of a teacher has; `SettingsError` where queries and keys are not all of attention."""
    config = read_config(folder)
    if config.get("model_type") == "mpnet" or config.get("position_embedding_type", "absolute") != "absolute":
        raise SettingsError(
            f"method attention: a {config.get('model_type')} teacher adds biases by distance to its attention; "
            "use relations instead"
        )
    return int(config.get("num_attention_heads") or config["n_heads"])


class _Attention(Method):
    def __init__(self, taught: Supervision, layers: tuple[int, ...], heads: tuple[tuple[int, int], ...], distance: str):
        """`layers`: the teacher's for each of the student's; `heads`: of each, the student's and the teacher's."""
        super().__init__()
        self.taught, self.layers, self.heads, self.distance = taught, layers, heads, distance
        self.watches = tuple(f"layers.{i}.{part}" for i in range(len(layers)) for part in ("query", "key"))

    def forward(self, lesson: Lesson) -> Tensor:
        loss = lesson.batch.mask.new_zeros(()).float()
        for i, (layer, (mine, theirs)) in enumerate(zip(self.layers, self.heads, strict=True)):
            query, key = lesson.inner[f"layers.{i}.query"], lesson.inner[f"layers.{i}.key"]
            their_query, _ = self.taught.states(f"query{layer}", lesson.batch, query.shape[1])
            their_key, known = self.taught.states(f"key{layer}", lesson.batch, key.shape[1])
            pair = scores(query, key, mine), scores(their_query, their_key, theirs)
            loss = loss + attention(*pair, known, self.distance)
        return loss


def needs(settings: Settings, student: Student, depth: int) -> tuple[str, ...]:
    if student.transformer.shape.relative:
        raise SettingsError(
            "method attention: the student adds biases by distance to its attention; use relations instead"
        )
    layers = layers_for(settings.match, student, depth)
    if 0 in layers:
        raise SettingsError(f"match: 0, the embeddings, has no attention; layers are counted from 1 to {depth}")
    return tuple(f"{part}{layer}" for layer in dict.fromkeys(layers) for part in ("query", "key"))


def build(settings: Settings, student: Student, taught: Supervision, context: Context) -> Method:
    theirs = attention_heads(context.teacher)
    heads = tuple((layer.heads, theirs) for layer in student.transformer.shape.layers)
    return _Attention(taught, layers_for(settings.match, student, taught.depth), heads, settings.distance)
