"""The facade that users hold: `attar.load(path)` then `model(texts)`."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.runtime.bundle import Bundle
from attar.runtime.engines.onnx import Engine
from attar.runtime.engines.profiles import BATCH_TOKENS
from attar.runtime.engines.starting import Choice, golden_of
from attar.runtime.engines.starting import start as start_engine
from attar.runtime.errors import AttarError, BundleError, DataError, SettingsError
from attar.runtime.tasks.base import Outputs, Task, activate
from attar.runtime.tokenizer import Encoded, Text, pad

GOLDEN_TOLERANCE = 0.02
"""Largest difference that a golden input may show, in probability or relative to a number above 1: other processors
round int8 differently."""
LEAST_TOKENS = 128
"""Tokens of a batch below which a list is not cut up for the sake of more threads."""
PADDED_TOLERANCE = 0.01
"""Largest difference, in the same terms, between a golden input alone and in a padded batch: ONNX Runtime shows none,
OpenVINO's bf16 some 0.004 (0.015 in logits); an engine that is wrong about padding shows more."""


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

    def warm_up(
        self, seconds: float, *, batch_tokens: int | None = None, observe: Callable[[int, float], None] | None = None
    ) -> int:
        """Computes batches of every length, 8, 16, 32 tokens and so on, one text and a full batch of each, so that no
        user waits for what an engine sets up for a shape it has not seen.

        Small shapes come first; no new one is begun after `seconds`. Returns how many were computed.

        Args:
            batch_tokens: those of a full batch; by default the model's own.
            observe: called behind each shape with its tokens and seconds.
        """
        end, shapes = time.monotonic() + seconds, self._shapes(batch_tokens or self.batch_tokens)
        for done, (rows, length) in enumerate(shapes):
            start = time.monotonic()
            if start >= end:
                return done
            self.try_shape(rows, length)
            if observe is not None:
                observe(rows * length, time.monotonic() - start)
        return len(shapes)

    def _shapes(self, batch_tokens: int) -> list[tuple[int, int]]:
        """Rows and length of typical batches, the smallest first."""
        longest, most = self.task.max_length, self.manifest.limits["max_batch"]
        lengths = [2**k for k in range(3, 32) if 2**k < longest] + [longest]
        sizes = {(rows, length) for length in lengths for rows in (1, min(most, batch_tokens // length))}
        return sorted((shape for shape in sizes if shape[0]), key=lambda shape: (shape[0] * shape[1], shape))

    def try_shape(self, rows: int, length: int) -> None:
        """Computes a batch of this shape that says nothing."""
        ids = np.full((rows, length), self.tokenizer.pad_id, dtype=np.int64)
        self.engine.run(ids, np.ones_like(ids))

    def replay_golden(self, golden: bytes) -> float:
        """Replays the golden inputs, each alone and all in one padded batch; the largest difference to what is expected
        found, or `BundleError` where it is too large."""
        try:
            record = json.loads(golden)
            texts = [self._parse(item, None) for item in record["texts"]]
            if not texts:
                raise BundleError("the bundle has no golden inputs, so nothing shows that it works: export it again")
            alone = [golden_outputs(self, text) for text in texts]
            wanted = [{name: np.reshape(outputs[name], found[name].shape) for name in found}
                      for found, outputs in zip(alone, record["outputs"], strict=True)]  # fmt: skip
            worst = max_difference(zip(alone, wanted, strict=True))
            encoded = self.task.encode(self.tokenizer, texts)
            outputs = self.outputs(encoded)
            together = _activated(self, encoded, outputs)
            self.task.answers(encoded, outputs)  # to the end: what fails in a batch should fail here
        except AttarError:
            raise
        except Exception as error:  # engines and tokenizers raise many unrelated types
            raise BundleError(f"golden inputs cannot be replayed: {error!r:.300}. Export the bundle again") from error
        if not worst <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"golden inputs do not reproduce on this machine: scores differ by {worst:.3f}, at most "
                f"{GOLDEN_TOLERANCE} is allowed. Run `attar doctor`, and leave out engine and precision, or export "
                "the bundle for this machine's instruction set."
            )
        padded = max_difference([(together, {name: np.concatenate([a[name] for a in alone]) for name in together})])
        if not padded <= PADDED_TOLERANCE:
            raise BundleError(
                f"{self.engine.name} gives golden inputs other scores in a padded batch than alone: by {padded:.3f}, "
                f"at most {PADDED_TOLERANCE} is allowed. Load the bundle with another engine"
            )
        return worst


def max_difference(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
    """The largest difference of found and wanted outputs by head, relative to a number above 1; NaN stays NaN."""
    differences = [
        float((np.abs(found[name] - wanted[name]) / np.maximum(1.0, np.abs(wanted[name]))).max(initial=0.0))
        for found, wanted in pairs
        for name in found
    ]
    return float(np.max(differences, initial=0.0))  # unlike max(), it lets NaN through to be refused


def golden_outputs(model: Model, text: Text) -> dict[str, Any]:
    """Activated outputs of one input by head, in float64: what golden inputs are compared in. Windows are stacked."""
    encoded = model.task.encode(model.tokenizer, [text])
    return _activated(model, encoded, model.outputs(encoded))


def _activated(model: Model, encoded: Encoded, outputs: Outputs) -> dict[str, Any]:
    """The same of all rows, one after another; `BundleError` where the task reads another shape."""
    result: dict[str, Any] = {}
    for head in model.task.heads:
        found = outputs[head.name]
        wanted = [(len(ids), head.outputs) if head.reads == "tokens" else (head.outputs,) for ids in encoded.ids]
        shapes = [row.shape for row in found]
        if shapes != wanted:
            raise BundleError(f"{head.name} has the shape {np.shape(found[0])} where its task reads {wanted[0]}")
        result[head.name] = np.concatenate([activate(head, np.atleast_2d(row)) for row in found]).astype(np.float64)
    return result


def load(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnx",
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Reads, verifies and starts a bundle.

    Args:
        path: the bundle's folder, or a zip of it, which is not unpacked.
        engine: `onnx`, ONNX Runtime; `openvino`; `tensorrt`, on an NVIDIA GPU, for bundles that `attar tensorrt` was
            at; or `auto`, the fastest of those that run the bundle here, measured once and remembered.
        device: of `onnx` `cpu`, `cuda`, or `tensorrt`, ONNX Runtime's provider of it; of `openvino` `cpu`; of
            `tensorrt` `cuda`. By default the first. With `auto` it narrows the choice.
        threads: of engines on the CPU, threads of one call; by default the cores this process may use (affinity and
            cgroup quota).
        precision: of `openvino`, `fp32` by default, or `bf16`, whose answers no gate has judged.
        options: what the task lets users choose about its answers, such as `{"aggregation": "first"}` or
            `{"top_k": 3}`; an unknown one is refused with the known ones.

    Raises:
        BundleError: missing, truncated, altered or too new, or its golden inputs do not reproduce here.
        SettingsError: an unknown option, or a value that the task refuses; an engine or a device that cannot be used.
    """
    return start(Bundle.read(path), Choice(engine, device, precision), threads=threads, options=options)


def start(
    bundle: Bundle, choice: Choice, *, threads: int | None = None, options: Mapping[str, Any] | None = None
) -> Model:
    """Starts a bundle that was read; all else as `load`."""
    if choice.engine == "tensorrt" and threads is not None:
        raise SettingsError("TensorRT runs on the GPU and takes no threads: leave out threads")
    task = bundle.manifest.task.with_options(options or {})

    def proved(choice: Choice) -> Model:
        model = Model(bundle, start_engine(choice, bundle, threads), task=task)
        model.replay_golden(bundle.contents[golden_of(choice)])
        return model

    if choice.engine != "auto":
        return proved(choice)
    from attar.runtime.engines.auto import fastest

    return fastest(bundle, choice.device, threads, proved)
