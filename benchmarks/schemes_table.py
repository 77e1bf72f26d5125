"""What schemes.py measures of one exported model, and how it prints that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.bench.paired import Ratio, compare_each
from attar.runtime.model import Model
from attar.runtime.tokenizer import Text, pad

HEADER = (
    "| scheme | accuracy | points lost | p50 of a text, ms | x fp32 | texts a second | x fp32 | MB "
    "| outputs move by | labels that change |\n|---|---|---|---|---|---|---|---|---|---|"
)
MATES = 16
"""Texts in a batch when invariance is looked at."""


@dataclass(frozen=True)
class Invariance:
    """How far the outputs of a text move with its neighbours and its padding.

    Attributes:
        change: the largest change of any raw output.
        labels: how many texts get another label.
        texts: of how many.
    """

    change: float
    labels: int
    texts: int


@dataclass(frozen=True)
class Speed:
    """`value` in milliseconds or texts a second; `ratio` above 1 is faster than the baseline."""

    value: float
    ratio: Ratio

    def to_json(self) -> dict[str, float]:
        return {"value": round(self.value, 4), **self.ratio.to_json()}


@dataclass(frozen=True)
class Row:
    """One scheme: points on test, points lost against fp32, speed, size and invariance."""

    name: str
    points: float
    lost: float
    single: Speed
    throughput: Speed
    megabytes: float
    invariance: Invariance

    def to_json(self) -> dict[str, Any]:
        return {
            **{k: round(getattr(self, k), 4) for k in ("points", "lost", "megabytes")},
            "scheme": self.name,
            "single": self.single.to_json(),
            "throughput": self.throughput.to_json(),
            "invariance": asdict(self.invariance),
        }

    def line(self) -> str:
        moved, (fast, many) = self.invariance, (ratio_text(s.ratio) for s in (self.single, self.throughput))
        cells = [self.name, f"{self.points:.2f}", f"{round(self.lost, 2) + 0.0:.2f}", f"{self.single.value:.2f}", fast]
        cells += [f"{self.throughput.value:.0f}", many, f"{self.megabytes:.1f}"]
        cells += ["0" if moved.change == 0 else f"{moved.change:.2g}", f"{moved.labels} of {moved.texts}"]
        return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Failure:
    """A scheme that gave no model, and why."""

    name: str
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"scheme": self.name, "why": self.why}

    def line(self) -> str:
        return f"| {self.name} | {self.why.replace('|', '/')} |" + " |" * 8


def ratio_text(ratio: Ratio) -> str:
    """A ratio with its 95 % interval."""
    return f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def invariance(model: Model, texts: Sequence[Text]) -> Invariance:
    """Every text alone, against itself in shuffled batches of mixed lengths and padded to the longest input."""
    rows = model.task.encode(model.tokenizer, texts).ids
    alone = np.concatenate([raw(model, [row]) for row in rows])
    padded = np.concatenate([raw(model, [row], model.task.max_length) for row in rows])
    together, order = np.empty_like(alone), np.random.default_rng(0).permutation(len(rows))
    for start in range(0, len(rows), MATES):
        chosen = order[start : start + MATES]
        together[chosen] = raw(model, [rows[i] for i in chosen])
    others = np.stack([padded, together])
    moved = (others.argmax(-1) != alone.argmax(-1)).any(0)
    return Invariance(float(np.abs(others - alone).max()), int(moved.sum()), len(rows))


def raw(model: Model, rows: Sequence[Sequence[int]], length: int = 0) -> NDArray[np.float32]:
    """Outputs (B, C) of one batch of token ids, padded to `length` where its longest row is shorter."""
    ids, mask = pad(rows, model.tokenizer.pad_id, length)
    return model.engine.run(ids, mask)[model.task.heads[0].name]


def speeds(base: Model, model: Model, texts: Sequence[Text], singles: int, rounds: int) -> tuple[Speed, Speed]:
    """Of the first `singles` texts one by one, and of all at once; from text to answer, the baseline in turns."""

    def paired(batches: Sequence[Sequence[Text]]) -> tuple[float, Ratio]:
        spent: list[float] = []
        pairs = [(answering(base, batch), noted(answering(model, batch), spent)) for batch in batches]
        ratio = compare_each(pairs, rounds)
        return median(spent), ratio

    seconds, ratio = paired([[text] for text in texts[:singles]])
    single = Speed(1e3 * seconds, ratio)
    seconds, ratio = paired([texts])
    return single, Speed(len(texts) / seconds, ratio)


def answering(model: Model, texts: Sequence[Text]) -> Callable[[], object]:
    return lambda: model.answer(texts)


def noted(call: Callable[[], object], spent: list[float]) -> Callable[[], object]:
    """The call, whose seconds are added to `spent`."""

    def run() -> None:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)

    return run
