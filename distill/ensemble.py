"""Several teachers of one task: what they say of each row, averaged. Their hidden states are never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.distill.teacher import Targets
from attar.runtime.tasks.base import Head, Task

Floats = NDArray[np.float32]
WAYS = ("average", "weighted")
BLOCK = 65_536
"""Rows at a time: a tagger's tokens are millions."""


@dataclass(frozen=True)
class Member:
    """A further teacher: its folder, the digest of what is in it, and its own task."""

    folder: Path
    digest: str
    task: Task


@dataclass(frozen=True)
class Ensemble:
    """Teachers beside the first, and how outputs are averaged: one of `WAYS`.

    `average`: the mean of the teachers' distributions. `weighted`: on each row (of a tagger, each token) teachers count
    by how sure they are, a softmax over teachers of the negative entropy of what each says.
    """

    members: tuple[Member, ...] = ()
    how: str = "average"

    def key(self) -> list[Any]:
        """What decides the outputs, for the keys of the cache."""
        return [self.how, *(member.digest for member in self.members)] if self.members else []


def combined(first: Targets, others: Sequence[Targets], task: Task, ensemble: Ensemble) -> Targets:
    """The first teacher's targets with the averaged outputs of all; `others` are of the members, in their order."""
    if not others:
        return first
    heads = {}
    for head in task.heads:
        raw = [first.heads[head.name]]
        for member, said in zip(ensemble.members, others, strict=True):
            raw.append(_in_unit(said.heads[head.name], unit(member.task, head.name), unit(task, head.name)))
        heads[head.name] = averaged(head, raw, ensemble.how, first.starts)
    return replace(first, heads=heads)


def unit(task: Task, head: str) -> tuple[float, float]:
    """Mean and scale by which a number is read off the outputs of a head; (0, 1) where it gives none."""
    parts: Mapping[str, Any] = dict(getattr(task, "parts", ()))
    part = parts.get(head, task)
    return getattr(part, "mean", 0.0), getattr(part, "scale", 1.0)


def _in_unit(raw: Floats, theirs: tuple[float, float], ours: tuple[float, float]) -> Floats:
    """Outputs of a teacher that was trained on other labels, as the first teacher would give the same number."""
    if theirs == ours:
        return raw
    return np.asarray((theirs[0] + theirs[1] * raw - ours[0]) / ours[1], dtype=np.float32)


def averaged(head: Head, raw: Sequence[Floats], how: str, starts: NDArray[np.int64]) -> Floats:
    """One teacher's worth of raw outputs (N, C) from several: numbers averaged, else the log of averaged probabilities.

    `starts`: where the tokens of each row are packed, whose softmax a span's outputs are. Raw outputs are known up to a
    constant, which is the mean of the teachers' constants: teachers that all say the same give just that.
    """
    if head.objective == "span":
        return _spans(np.stack(raw), how, starts[:-1])
    result = np.empty(raw[0].shape, np.float32)
    for start in range(0, len(result), BLOCK):
        block = np.stack([values[start : start + BLOCK] for values in raw])
        result[start : start + BLOCK] = _BY_OBJECTIVE[head.objective](block, how)
    return result


def _values(raw: Floats, how: str) -> Floats:
    return np.asarray(raw.mean(0))


def _classes(raw: Floats, how: str) -> Floats:
    """(K, N, C) -> (N, C): one distribution a row."""
    constant = np.logaddexp.reduce(raw, axis=-1, keepdims=True)
    logs = raw - constant
    shares = log_shares(-(np.exp(logs) * logs).sum(-1), how)
    return np.asarray(np.logaddexp.reduce(logs + shares[..., None], axis=0) + constant.mean(0))


def _labels(raw: Floats, how: str) -> Floats:
    """(K, N, C) -> (N, C): a distribution over yes and no for each label; the entropy of a row is the sum of all."""
    logs = np.stack([-np.logaddexp(0, -raw), -np.logaddexp(0, raw)], -1)
    shares = log_shares(-(np.exp(logs) * logs).sum((-2, -1)), how)
    yes, no = np.moveaxis(np.logaddexp.reduce(logs + shares[..., None, None], axis=0), -1, 0)
    return np.asarray(yes - no)


def _spans(raw: Floats, how: str, starts: NDArray[np.int64]) -> Floats:
    """(K, T, 2) -> (T, 2): two distributions over the tokens of each row, whose entropies are added."""
    lengths = np.diff(np.append(starts, raw.shape[1]))

    def along(values: Floats) -> Floats:
        return np.repeat(values, lengths, axis=1)

    top = np.maximum.reduceat(raw, starts, axis=1)
    constant = top + np.log(np.add.reduceat(np.exp(raw - along(top)), starts, axis=1))
    logs = raw - along(constant)
    shares = log_shares(-np.add.reduceat(np.exp(logs) * logs, starts, axis=1).sum(-1), how)
    mixed = np.logaddexp.reduce(logs + along(shares)[..., None], axis=0)
    return np.asarray(mixed + along(constant.mean(0, keepdims=True))[0], dtype=np.float32)


def log_shares(entropy: Floats, how: str) -> Floats:
    """The logarithm of each teacher's share, from the entropy (K, N) of what it says: sums to 1 over teachers."""
    scores = -entropy if how == "weighted" else np.zeros_like(entropy)
    return np.asarray(scores - np.logaddexp.reduce(scores, axis=0))


_BY_OBJECTIVE = {"classes": _classes, "labels": _labels, "value": _values}
