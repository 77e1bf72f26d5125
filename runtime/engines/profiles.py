"""Optimisation profiles: the ranges of batches and lengths that an engine with dynamic shapes is tuned for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attar.runtime.errors import SettingsError

BATCH_TOKENS = 1024
"""Tokens of a batch, as `Model` and `Batcher` make them unless told otherwise."""
QUANTILES = (0.5, 0.9)
"""Shares of the texts below which lengths have a profile of their own."""


@dataclass(frozen=True)
class Profile:
    """Lengths from `least` to `longest` tokens in batches of 1 to `batch` rows, tuned for `usual`: (batch, length)."""

    least: int
    longest: int
    batch: int
    usual: tuple[int, int]

    def holds(self, batch: int, length: int) -> bool:
        return self.least <= length <= self.longest and 1 <= batch <= self.batch

    @staticmethod
    def from_json(record: dict[str, Any]) -> Profile:
        return Profile(record["least"], record["longest"], record["batch"], tuple(record["usual"]))


def profiles_for(
    lengths: Sequence[int], max_length: int, *, max_batch: int, batch_tokens: int = BATCH_TOKENS
) -> tuple[Profile, ...]:
    """Profiles for texts of these lengths in tokens: one up to their median, one up to the 90th percentile, one for
    all that the model reads. Every batch that `Model` makes of at most `batch_tokens` tokens is in one of them."""
    if not lengths:
        raise SettingsError("profiles come from the lengths of real texts, and there are none: give some")
    seen = np.clip(np.sort(np.asarray(lengths)), 1, max_length)
    edges = sorted({*(int(np.quantile(seen, q, method="higher")) for q in QUANTILES), max_length})
    found, least = [], 1
    for edge in edges:
        inside = seen[(seen >= least) & (seen <= edge)]
        usual = int(np.median(inside)) if len(inside) else edge
        batch = max(1, min(max_batch, batch_tokens // least))
        found.append(Profile(least, edge, batch, (max(1, min(batch, batch_tokens // usual)), usual)))
        least = edge + 1
    return tuple(found)


def choose(profiles: Sequence[Profile], batch: int, length: int) -> int:
    """Which profile holds a batch of so many rows of so many tokens; `SettingsError` names the limit passed."""
    for place, profile in enumerate(profiles):
        if profile.holds(batch, length):
            return place
    longest = max(p.longest for p in profiles)
    if length > longest:
        raise SettingsError(
            f"a row of {length} tokens is longer than the engine's {longest}: cut the texts, or build an engine for a "
            "student that reads more"
        )
    most = max((p.batch for p in profiles if p.least <= length <= p.longest), default=0)
    raise SettingsError(
        f"a batch of {batch} rows of {length} tokens is larger than the engine's {most} rows of that length: run "
        "smaller batches, or build the engine for larger ones"
    )


def digest(profiles: Sequence[Profile]) -> str:
    """Eight letters that tell sets of profiles apart."""
    return hashlib.sha256(json.dumps([asdict(p) for p in profiles]).encode()).hexdigest()[:8]
