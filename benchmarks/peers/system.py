"""What the systems of benchmarks/peers.py have in common: two commands, batches, the head, and answers.

python benchmarks/peers/run_NAME.py prepare GIVEN MADE          # converts or trains, once
python benchmarks/peers/run_NAME.py serve GIVEN MADE --threads N  # answers by runtime/bench/protocol.py

GIVEN holds task.json, train.jsonl and, where there are weights, checkpoint/ (the encoder alone, for transformers),
onnx/ (the same exported by PyTorch, and as ONNX Runtime's dynamic int8) and head.npz. MADE is what the system loads.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.bench.protocol import serve
from attar.runtime.tasks.classification import Classification, TextClassification

Floats = NDArray[np.float32]
Batch = Callable[[list[str]], Floats]
"""Texts (B,) to vectors (B, H), or to probabilities (B, C)."""
Prepare = Callable[[Path, Path], None]
Load = Callable[[Path, Path, int], Batch]
BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)


class System:
    """A peer as the benchmark asks it: sorted by length, in batches of a tuned size."""

    settings = BATCHES

    def __init__(self, kind: str, task: TextClassification, batch: Batch) -> None:
        self.kind, self.task, self._batch = kind, task, batch
        self._size = BATCHES[-1]

    def use(self, setting: int) -> None:
        self._size = setting

    def many(self, texts: Sequence[Any]) -> list[Any]:
        """Labels with their probabilities; attar's own answers hold those of all other labels too."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        answers: list[Any] = [None] * len(texts)
        for start in range(0, len(order), self._size):
            chosen = order[start : start + self._size]
            found = self._batch([texts[i] for i in chosen])
            for i, best, row in zip(chosen, found.argmax(-1).tolist(), found, strict=True):
                answers[i] = Classification(self.task.labels[best], float(row[best]), {})
        return answers


def headed(given: Path, vectors: Batch) -> Batch:
    """Probabilities (B, C) from vectors (B, H) by the student's own linear head, in numpy."""
    with np.load(given / "head.npz") as head:
        weight, bias = head["weight"].T.copy(), head["bias"]

    def batch(texts: list[str]) -> Floats:
        logits = vectors(texts) @ weight + bias
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(powers / powers.sum(-1, keepdims=True))

    return batch


def need(path: Path, what: str) -> Path:
    """Ends with a line on what is missing."""
    if not path.exists():
        sys.exit(f"needs {what}")
    return path


def checkpoint(given: Path) -> Path:
    return need(given / "checkpoint", "the student's weights: --student")


def train(given: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of the training data."""
    rows = [json.loads(line) for line in (given / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def base(given: Path) -> str:
    """The pretrained encoder that those begin with that train for themselves."""
    found = task(given)["base"]
    return str(found) if found else sys.exit("needs a pretrained encoder to begin with: --base")


def task(given: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((given / "task.json").read_text(encoding="utf-8"))
    return record


def by_label(given: Path, classes: Sequence[str]) -> list[int]:
    """Where each of the task's labels is among a model's own classes."""
    known = [str(name) for name in classes]
    return [known.index(label) for label in task(given)["labels"]]


def arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def versions() -> dict[str, str]:
    """Everything that is installed here."""
    return {d.name.lower(): d.version for d in sorted(distributions(), key=lambda d: d.name.lower())}


def main(kind: str, prepare: Prepare, load: Load) -> int:
    """The two commands; `kind` says in a few words how the peer computes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["prepare", "serve"])
    parser.add_argument("given", type=Path)
    parser.add_argument("made", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.verb == "prepare":
        prepare(args.given, args.made)
        return 0
    record = task(args.given)
    known = TextClassification(tuple(record["labels"]), record["max_length"])
    return serve(lambda: System(kind, known, load(args.given, args.made, args.threads)))
