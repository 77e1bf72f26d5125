"""The training loop: AdamW, linear warm-up and decay, batches of similar length, one seed for everything."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attar.distill import processes
from attar.distill.device import CPU, within_memory
from attar.distill.resume import Keeper
from attar.runtime.cpu import instruction_sets
from attar.runtime.errors import AttarError
from attar.runtime.tokenizer import Encoded, Text

Progress = Callable[[float, str], None]
"""Told the finished fraction (0-1) and one line of text."""
GROWN = 2.0
"""A running mean of the loss this many times its lowest calls for a warning."""


class TrainingError(AttarError):
    """Training cannot go on: the loss is not a number."""


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings; `warmup` is a fraction of all steps, `bf16` is used where processor or GPU have it."""

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


def autocast(enabled: bool, device: torch.device = CPU) -> torch.autocast:
    """bf16 matrix products where asked for and where the processor, or the GPU, has the instructions."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and _has_bf16(device))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return "avx512_bf16" in instruction_sets()


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass
class Standing:
    """How far a training is: the steps done, the batches left of this epoch, the running mean of the loss and, from
    the end of the warm-up on, its lowest."""

    step: int = 0
    queue: list[list[int]] = field(default_factory=list)
    mean: float = math.nan
    lowest: float = math.inf

    def took(self, loss: float, warm: bool) -> None:
        """One more step is done."""
        self.step += 1
        self.mean = loss if math.isnan(self.mean) else 0.98 * self.mean + 0.02 * loss
        self.lowest = min(self.lowest, self.mean) if warm else self.lowest

    def line(self, total: int, trouble: str = "") -> str:
        """For the progress bar, with a warning of trouble, or where the loss has grown."""
        said = f"step {self.step}/{total}, loss {self.mean:.4f}"
        if self.mean > GROWN * self.lowest > 0:
            said += f"; warning: the loss grows, its lowest mean was {self.lowest:.4f}: lower learning_rate"
        return said + (f"; warning: {trouble}" if trouble else "")


@within_memory()
def train(
    parameters: Iterable[nn.Parameter] | list[dict[str, Any]],
    lengths: Sequence[int],
    loss_of: Callable[[list[int], float], Tensor],
    schedule: Schedule,
    progress: Progress,
    *,
    keeper: Keeper | None = None,
    text_of: Callable[[int], str] | None = None,
) -> float:
    """Minimises `loss_of(indices, progress from 0 to 1)` over batches of examples of the given lengths.

    Returns the last mean loss.

    `parameters` may be groups, `{"params": [...], "rate": 1.0}`: each learns at `rate` times the learning rate. They
    are trained where they are, on the CPU or a GPU.
    With a `keeper` training goes on from its checkpoint, to the same bits on a CPU, and removes it when it is done.
    Of several processes (processes.py) each takes its share of every batch where `loss_of` runs the network through
    `outputs_of`; the first one keeps the checkpoint that all go on from.

    Raises:
        TrainingError: loss or gradient became NaN or infinite; names the step and, by `text_of`, the first text of the
            batch. The weights are those before that step, and a checkpoint stays.
    """
    optimiser, rng = _adamw(parameters, schedule), random.Random(schedule.seed)
    total = max(1, round(schedule.epochs * math.ceil(len(lengths) / schedule.batch_size)))
    device: torch.device = optimiser.param_groups[0]["params"][0].device
    now = _start(keeper, optimiser, rng, total, progress)
    about = now.step, total, sum(lengths), device.type
    processes.agree(about, "the step, the steps in all, the tokens of the data or the kind of device")
    while now.step < total:
        now.queue = now.queue or bucketed(lengths, schedule.batch_size, rng)
        rows = now.queue.pop()
        with autocast(schedule.bf16, device):
            loss = loss_of(rows, now.step / total)
        if wrong := _update(loss, optimiser, schedule, now.step, total):
            raise TrainingError(_diverged(wrong, now.step + 1, total, text_of(rows[0]) if text_of else "", keeper))
        now.took(loss.item(), now.step >= schedule.warmup * total)
        if keeper and processes.leads() and keeper.due:
            keeper.save(asdict(now), optimiser, rng)
        if now.step % 20 == 1 or now.step == total:
            progress(now.step / total, now.line(total, keeper.trouble if keeper else ""))
    if keeper and processes.leads():
        keeper.remove()
    return now.mean


def _adamw(parameters: Iterable[nn.Parameter] | list[dict[str, Any]], schedule: Schedule) -> torch.optim.AdamW:
    """The optimiser of those parameters that learn, in their groups."""
    listed: list[Any] = list(parameters)
    given = listed if listed and isinstance(listed[0], dict) else [{"params": listed}]
    groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in given]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)


def _start(
    keeper: Keeper | None, optimiser: torch.optim.Optimizer, rng: random.Random, total: int, progress: Progress
) -> Standing:
    """The beginning, or where the checkpoint stands; what became of a checkpoint is told."""
    found, why = keeper.resume(optimiser, rng) if keeper else (None, "")
    now = Standing(**found) if found else Standing()
    if found:
        why = f"note: going on from the checkpoint of step {now.step}/{total}"
    if why:
        progress(now.step / total, why)
    return now


def _update(loss: Tensor, optimiser: torch.optim.Optimizer, schedule: Schedule, step: int, total: int) -> str:
    """One step of the optimiser; or, with the weights left as they were, what is not a finite number."""
    if not math.isfinite(value := loss.item()):
        return f"the loss became {value}"
    rate = min(1.0, (step + 1) / max(1.0, schedule.warmup * total)) * (1 - step / total)
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate * rate * group.get("rate", 1.0)
    loss.backward()
    chosen = [p for group in optimiser.param_groups for p in group["params"]]
    processes.mean_gradients(chosen)
    # An infinite gradient would spoil the weights, and the next checkpoint, before any loss shows it.
    if not math.isfinite(norm := torch.nn.utils.clip_grad_norm_(chosen, schedule.clip).item()):
        return f"the gradient became {norm}"
    optimiser.step()
    optimiser.zero_grad()
    return ""


def _diverged(what: str, step: int, total: int, text: str, keeper: Keeper | None) -> str:
    """The message: where it happened, by which text, the remedy, and what is left."""
    where = f", in the batch that begins with {shortened(text)!r}" if text else ""
    kept = f". The last good checkpoint is kept as {keeper.file}" if keeper and keeper.file.is_file() else ""
    first = ", or leave that text out" if text and step == 1 else ""
    return f"{what} at step {step} of {total}{where}; lower learning_rate{first}{kept}"


def shortened(text: str, length: int = 60) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= length else text[: length - 3] + "..."


def namer(encoded: Encoded, texts: Sequence[Text]) -> Callable[[int], str]:
    """The text that a row was made of; of a pair both."""

    def text_of(row: int) -> str:
        text = texts[row if encoded.windows is None else encoded.windows[row].text]
        return text if isinstance(text, str) else " / ".join(text)

    return text_of
