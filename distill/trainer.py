"""The training loop: AdamW, linear warm-up and decay, batches of similar length, one seed for everything."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attar.runtime.cpu import instruction_sets
from attar.runtime.errors import AttarError

Progress = Callable[[float, str], None]
"""Told the finished fraction (0-1) and one line of text."""


class TrainingError(AttarError):
    """Training cannot go on: the loss is not a number."""


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings; `warmup` is a fraction of all steps, `bf16` is used where the processor has it."""

    epochs: float
    batch_size: int
    learning_rate: float
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    bf16: bool = True
    seed: int = 0


def bucketed(lengths: Sequence[int], batch_size: int, rng: random.Random, pool: int = 50) -> list[list[int]]:
    """Every index once, in batches of similar length: shuffled, sorted within pools, batches shuffled again."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * pool):
        chunk = sorted(order[start : start + batch_size * pool], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    rng.shuffle(batches)
    return batches


def autocast(enabled: bool) -> torch.autocast:
    """bf16 matrix products where asked for and where the processor has the instructions."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and "avx512_bf16" in instruction_sets())


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def train(
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
    lengths: Sequence[int],
    loss_of: Callable[[list[int], float], Tensor],
    schedule: Schedule,
    progress: Progress,
) -> float:
    """Minimises `loss_of(indices, progress from 0 to 1)` over batches of examples of the given lengths.

    Returns the last mean loss.

    `parameters` may be groups, `{"params": [...], "rate": 1.0}`: each learns at `rate` times the learning rate.

    Raises:
        TrainingError: the loss became NaN or infinite; names the step.
    """
    listed: list[Any] = list(parameters)
    given = listed if listed and isinstance(listed[0], dict) else [{"params": listed}]
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in given]
    groups = [g for g in groups if g["params"]]
    chosen = [p for g in groups for p in g["params"]]
    optimiser = torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    rng = random.Random(schedule.seed)
    total = max(1, round(schedule.epochs * math.ceil(len(lengths) / schedule.batch_size)))
    queue: list[list[int]] = []
    mean = float("nan")
    for step in range(total):
        queue = queue or bucketed(lengths, schedule.batch_size, rng)
        rate = min(1.0, (step + 1) / max(1.0, schedule.warmup * total)) * (1 - step / total)
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * rate * group.get("rate", 1.0)
        with autocast(schedule.bf16):
            loss = loss_of(queue.pop(), step / total)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss became {value} at step {step + 1} of {total}; lower learning_rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(chosen, schedule.clip)
        optimiser.step()
        optimiser.zero_grad()
        mean = value if math.isnan(mean) else 0.98 * mean + 0.02 * value
        if step % 20 == 0 or step == total - 1:
            progress((step + 1) / total, f"step {step + 1}/{total}, loss {mean:.4f}")
    return mean
