"""The facade that users hold: `attar.load(path)` then `model(texts)`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.bundle import Bundle
from attar.runtime.engines import tensorrt
from attar.runtime.engines.onnx import Engine, OnnxEngine
from attar.runtime.engines.profiles import BATCH_TOKENS
from attar.runtime.errors import BundleError, DataError, SettingsError
from attar.runtime.tasks.base import Outputs, Task, activate
from attar.runtime.tokenizer import Encoded, Text, pad

GOLDEN_TOLERANCE = 0.02
"""Largest difference that a golden input may show, in probability or relative to a number above 1: other processors
round int8 differently."""
LEAST_TOKENS = 128
"""Tokens of a batch below which a list is not cut up for the sake of more threads."""


class Model:
    """A loaded bundle. Calls are thread-safe: neither the tokenizer nor the session keeps state between them."""

    def __init__(
        self, bundle: Bundle, engine: Engine, *, task: Task | None = None, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        manifest = bundle.manifest
        self.manifest = manifest
        self.task = task or manifest.task
        self.engine = engine
        self.batch_tokens = batch_tokens
        self.tokenizer = self.task.reader(bundle.contents["tokenizer.json"], manifest.pad_id)
        self._heads = self.task.heads

    def __call__(self, texts: Any) -> Any:
        """One input gives one answer, a list gives a list in the same order; the task says what an input is.

        Classifiers, taggers and embedders take strings. Pair tasks and question answering take tuples of two
        strings, `(question, context)`, or objects with the two keys. Anything else: `DataError`.
        """
        items, single = self.inputs(texts)
        found = self.answer(items)
        return found[0] if single else found

    def inputs(self, texts: Any) -> tuple[list[Text], bool]:
        """The inputs of a call in the task's form, and whether it was a single one; `DataError` names a wrong one."""
        single = isinstance(texts, str | Mapping)
        if single or (self.task.pairs and isinstance(texts, tuple) and len(texts) == 2 and isinstance(texts[0], str)):
            return [self._parse(texts, None)], True
        try:
            items = list(texts)
        except TypeError as error:
            raise DataError(f"expected a text or a list of texts, not {type(texts).__name__}") from error
        return [self._parse(item, i) for i, item in enumerate(items)], False

    def _parse(self, item: object, number: int | None) -> Text:
        try:
            return self.task.parse(item)
        except DataError as error:
            which = "the input" if number is None else f"input {number}"
            raise DataError(f"{which} {error}") from error

    def answer(self, texts: Sequence[Text]) -> list[Any]:
        """One typed answer an input, for inputs that are known to be in the task's form."""
        if not texts:
            return []
        encoded = self.task.encode(self.tokenizer, texts)
        return self.task.answers(encoded, self.outputs(encoded))

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Raw outputs of the first head: (N, C); of a head that reads tokens, all rows one after another (T, C)."""
        found = self.outputs(self.task.encode(self.tokenizer, texts))[self._heads[0].name]
        return found if isinstance(found, np.ndarray) else np.concatenate(found)

    def outputs(self, encoded: Encoded, at_once: int | None = None) -> Outputs:
        """Raw outputs by head: (R, C), or for token heads one (T, C) a row.

        `at_once`: batches computed at the same time, by default as many as the engine does best with; 1 where others
        are already computing.
        """
        if len(encoded.ids) == 1:
            ids, mask = pad(encoded.ids, self.tokenizer.pad_id)
            types = None if encoded.types is None else pad(encoded.types, 0)[0]
            found = self.engine.run(ids, mask, types)
            tokens = len(encoded.ids[0])
            return {
                h.name: list(found[h.name][:, :tokens]) if h.reads == "tokens" else found[h.name] for h in self._heads
            }
        return self._run(encoded, at_once or self.engine.at_once)

    def _run(self, encoded: Encoded, at_once: int) -> Outputs:
        """Batches of similar length, so that little is spent on padding; the order of the rows is kept."""
        rows, types = encoded.ids, encoded.types
        result: dict[str, Any] = {
            h.name: [None] * len(rows) if h.reads == "tokens" else np.empty((len(rows), h.outputs), np.float32)
            for h in self._heads
        }

        def compute(chosen: list[int]) -> None:
            ids, mask = pad([rows[i] for i in chosen], self.tokenizer.pad_id)
            kinds = None if types is None else pad([types[i] for i in chosen], 0)[0]
            found = self.engine.run(ids, mask, kinds)
            for head in self._heads:
                if head.reads == "tokens":
                    for place, i in enumerate(chosen):
                        result[head.name][i] = found[head.name][place, : len(rows[i])]
                else:
                    result[head.name][chosen] = found[head.name]

        batches = list(self._batches([len(row) for row in rows], at_once))
        if at_once == 1 or len(batches) == 1:
            for batch in batches:
                compute(batch)
        else:
            # Threads that live as long as the call: none is left to a fork, or to a model that nobody holds.
            with ThreadPoolExecutor(min(at_once, len(batches))) as pool:
                list(pool.map(compute, reversed(batches)))  # the longest first, so that none waits for it at the end
        return result

    def _batches(self, lengths: list[int], at_once: int) -> Iterator[list[int]]:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batch: list[int] = []
        limit = self.manifest.limits["max_batch"]
        share = math.ceil(sum(lengths) / at_once)
        tokens = min(self.batch_tokens, max(LEAST_TOKENS, share))
        for i in order:
            if batch and ((len(batch) + 1) * lengths[i] > tokens or len(batch) >= limit):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def replay_golden(self, golden: bytes) -> float:
        """Replays the golden inputs; the largest difference found, or `BundleError` where it is too large."""
        record = json.loads(golden)
        differences = []
        for item, expected in zip(record["texts"], record["outputs"], strict=True):
            for name, found in golden_outputs(self, self._parse(item, None)).items():
                wanted = np.array(expected[name], dtype=np.float64).reshape(found.shape)
                differences.append(float((np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))).max(initial=0.0)))
        worst = float(np.max(differences, initial=0.0))  # unlike max(), it lets NaN through to be refused
        if not worst <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"golden inputs do not reproduce on this machine: scores differ by {worst:.3f}, "
                f"at most {GOLDEN_TOLERANCE} is allowed. Run `attar doctor`, and export the bundle for this "
                "machine's instruction set."
            )
        return worst


def golden_outputs(model: Model, text: Text) -> dict[str, Any]:
    """Activated outputs of one input by head, in float64: what golden inputs are compared in. Windows are stacked."""
    encoded = model.task.encode(model.tokenizer, [text])
    found = model.outputs(encoded)
    return {
        head.name: np.concatenate([activate(head, np.atleast_2d(row)) for row in found[head.name]]).astype(np.float64)
        for head in model.task.heads
    }


def load(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnx",
    device: str | None = None,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Reads, verifies and starts a bundle.

    Args:
        path: the bundle's folder.
        engine: `onnx`, ONNX Runtime; or `tensorrt`, on an NVIDIA GPU, for bundles that `attar tensorrt` was at.
        device: of `onnx`, `cpu` or `cuda`; of `tensorrt`, `cuda`. By default the first.
        threads: of `onnx`, threads of one call; by default the cores this process may use (affinity and cgroup quota).
        options: what the task lets users choose about its answers, such as `{"aggregation": "first"}` or
            `{"top_k": 3}`; an unknown one is refused with the known ones.

    Raises:
        BundleError: missing, truncated, altered or too new, or its golden inputs do not reproduce here.
        SettingsError: an unknown option, or a value that the task refuses; a GPU that cannot be used.
    """
    return start(Bundle.read(path), engine=engine, device=device, threads=threads, options=options)


def start(
    bundle: Bundle,
    *,
    engine: str = "onnx",
    device: str | None = None,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Starts a bundle that was read; all else as `load`."""
    missing = sorted({"model.onnx", "tokenizer.json", "golden.json"} - bundle.contents.keys())
    if missing:
        raise BundleError(f"the bundle at {bundle.path} lists no {missing[0]}; export it again")
    task = bundle.manifest.task.with_options(options or {})
    model = Model(bundle, _engine(engine, bundle, device, threads), task=task)
    model.replay_golden(bundle.contents["golden.json" if engine == "onnx" else tensorrt.GOLDEN])
    return model


def _engine(name: str, bundle: Bundle, device: str | None, threads: int | None) -> Engine:
    """The engine of this name, on the device."""
    if name == "onnx":
        return OnnxEngine(bundle.contents["model.onnx"], threads=threads, device=device or "cpu", files=bundle.contents)
    if name != "tensorrt":
        raise SettingsError(f"engine must be onnx or tensorrt, not {name!r}")
    if threads is not None or device not in (None, "cuda"):
        raise SettingsError("TensorRT runs on the GPU and takes no threads: leave out device and threads")
    return tensorrt.load(bundle.contents)
