"""ONNX Runtime at its best as a worker: `python -m attar.runtime.bench.tuned BUNDLE --threads N`.

The baseline that a speed-up over "ONNX Runtime" should be measured against: of every level of graph optimisation and
numbers of threads up to N the fastest, apart for single texts and for batches; the batch is tuned like every system's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from attar.runtime.bench.protocol import serve
from attar.runtime.bench.texts import TEXTS, pairs
from attar.runtime.bench.worker import BundleSystem
from attar.runtime.bundle import Bundle
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.model import Model
from attar.runtime.tokenizer import Text

Level = Literal["all", "extended", "basic"]
TRIES = 3
"""Times that a setting is tried; the best counts."""
SINGLES, BATCH = 8, 32
"""Texts that settings are tried on, one by one and in one batch."""


class TunedSystem(BundleSystem):
    """A bundle with the fastest settings of ONNX Runtime, chosen on built-in sentences when it is loaded."""

    def __init__(self, path: Path, threads: int) -> None:
        bundle = Bundle.read(path)
        self.task = bundle.manifest.task
        texts: Sequence[Text] = pairs() if self.task.pairs else TEXTS
        found: dict[str, Model] = {}
        for level in get_args(Level):
            for count in sorted({1, (threads + 1) // 2, threads}):
                engine = OnnxEngine(bundle.contents["model.onnx"], threads=count, files=bundle.contents, level=level)
                found[f"{level}, {count} threads"] = Model(bundle, engine)
        # From all over the list, which is sorted by length.
        few, many = texts[:: len(texts) // SINGLES], texts[:: max(1, len(texts) // BATCH)]
        single = fastest({k: lambda m=m: [m.answer([text]) for text in few] for k, m in found.items()})  # type: ignore[misc]
        batch = fastest({k: lambda m=m: m.answer(many) for k, m in found.items()})  # type: ignore[misc]
        self._single, self._model = found[single], found[batch]
        version = self._model.engine.name.partition(" (")[0]
        self.kind = f"{version} {bundle.manifest.scheme}, tuned: single texts {single}; batches {batch}"

    def many(self, texts: Sequence[Text]) -> list[Any]:
        return (self._single if len(texts) == 1 else self._model).answer(texts)


def fastest(calls: dict[str, Callable[[], Any]]) -> str:
    """The name of the call that takes the least time, of a few tries in turns; the first of all warms up."""
    best = dict.fromkeys(calls, float("inf"))
    for number in range(TRIES + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return min(best, key=best.__getitem__)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    chosen = parser.parse_args(argv)
    return serve(lambda: TunedSystem(chosen.path, chosen.threads))


if __name__ == "__main__":
    sys.exit(main())
