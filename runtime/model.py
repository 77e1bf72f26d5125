"""The facade that users hold: `attar.load(path)` then `model(texts)`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from attar.runtime.bundle import Bundle
from attar.runtime.engines.onnx import Engine, OnnxEngine
from attar.runtime.errors import BundleError, DataError
from attar.runtime.tasks.classification import Classification
from attar.runtime.tokenizer import Encoded, Tokenizer, pad

GOLDEN_TOLERANCE = 0.02
"""Largest difference in probability that a golden input may show: other processors round int8 differently."""


class Model:
    """A loaded bundle. Calls are thread-safe: neither the tokenizer nor the session keeps state between them."""

    def __init__(self, bundle: Bundle, engine: Engine, *, batch_tokens: int = 1024) -> None:
        manifest = bundle.manifest
        self.manifest = manifest
        self.task = manifest.task
        self.engine = engine
        self.batch_tokens = batch_tokens
        self.tokenizer = Tokenizer(bundle.contents["tokenizer.json"], manifest.task.max_length, manifest.pad_id)

    @overload
    def __call__(self, texts: str) -> Classification: ...  # type: ignore[overload-overlap]  # a str is a Sequence[str]
    @overload
    def __call__(self, texts: Sequence[str]) -> list[Classification]: ...
    def __call__(self, texts: str | Sequence[str]) -> Classification | list[Classification]:
        """One text gives one answer, a list gives a list in the same order. Not a string: `DataError`."""
        if isinstance(texts, str):
            encoded = self.tokenizer.encode([texts])
            return self.task.answers(self.engine.run(*pad(encoded.ids, 0)), encoded.truncated)[0]
        try:
            items = list(texts)
        except TypeError as error:
            raise DataError(f"expected a text or a list of texts, not {type(texts).__name__}") from error
        wrong = next((i for i, t in enumerate(items) if not isinstance(t, str)), None)
        if wrong is not None:
            raise DataError(f"input {wrong} is a {type(items[wrong]).__name__}, not a string")
        if not items:
            return []
        encoded = self.tokenizer.encode(items)
        return self.task.answers(self._run(encoded), encoded.truncated)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Raw scores (N, C), for metrics and gates."""
        return self._run(self.tokenizer.encode(texts))

    def _run(self, encoded: Encoded) -> NDArray[np.float32]:
        """Batches of similar length, so that little is spent on padding; the order of the input is kept."""
        rows = encoded.ids
        result = np.empty((len(rows), len(self.task.labels)), dtype=np.float32)
        for chosen in self._batches([len(row) for row in rows]):
            ids, mask = pad([rows[i] for i in chosen], self.tokenizer.pad_id)
            result[chosen] = self.engine.run(ids, mask)
        return result

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batch: list[int] = []
        limit = self.manifest.limits["max_batch"]
        for i in order:
            if batch and ((len(batch) + 1) * lengths[i] > self.batch_tokens or len(batch) >= limit):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def replay_golden(self, golden: bytes) -> float:
        """Replays the golden inputs; the largest difference in probability, or `BundleError` where it is too large."""
        record = json.loads(golden)
        differences = []
        for text, expected in zip(record["texts"], record["scores"], strict=True):
            scores = np.array(list(self(text).scores.values()))
            differences.append(float(np.abs(scores - np.array(expected)).max()))
        worst = float(np.max(differences, initial=0.0))  # unlike max(), it lets NaN through to be refused
        if not worst <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"golden inputs do not reproduce on this machine: scores differ by {worst:.3f}, "
                f"at most {GOLDEN_TOLERANCE} is allowed. Run `attar doctor`, and export the bundle for this "
                "machine's instruction set."
            )
        return worst


def load(path: str | os.PathLike[str], *, device: str = "cpu", threads: int | None = None) -> Model:
    """Reads, verifies and starts a bundle.

    Args:
        path: the bundle's folder.
        device: `cpu`.
        threads: threads of one call; by default the cores this process may use (affinity and cgroup quota).

    Raises:
        BundleError: missing, truncated, altered or too new, or its golden inputs do not reproduce here.
    """
    bundle = Bundle.read(path)
    missing = sorted({"model.onnx", "tokenizer.json", "golden.json"} - bundle.contents.keys())
    if missing:
        raise BundleError(f"the bundle at {path} lists no {missing[0]}; export it again")
    engine = OnnxEngine(bundle.contents["model.onnx"], threads=threads, device=device)
    model = Model(bundle, engine)
    model.replay_golden(bundle.contents["golden.json"])
    return model
