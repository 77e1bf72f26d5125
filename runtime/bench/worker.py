"""A bundle as a benchmark worker: `python -m attar.runtime.bench.worker PATH --threads N [--choice JSON]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from attar.runtime.bench.protocol import serve
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import SettingsError
from attar.runtime.model import load
from attar.runtime.tokenizer import Text


class BundleSystem:
    """A bundle through the facade that users hold; the knob is the tokens in a batch, padding included."""

    settings: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)

    def __init__(self, path: Path, threads: int, choice: Choice) -> None:
        # TensorRT is told of no threads.
        self._model = load(path, threads=None if choice.engine == "tensorrt" else threads, **asdict(choice))
        self.kind = f"attar bundle, {self._model.manifest.scheme}, {self._model.engine.name}"
        self.task = self._model.task

    def use(self, setting: int) -> None:
        self._model.batch_tokens = setting

    def fix(self, rows: int, tokens: int) -> None:
        limit = self._model.manifest.limits["max_batch"]
        if rows > limit:
            raise SettingsError(f"the bundle takes {limit} rows in a batch at most, not {rows}")
        self._model.batch_tokens = rows * tokens

    def many(self, texts: Sequence[Text]) -> list[Any]:
        return self._model.answer(texts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--choice", type=json.loads, default={}, help="the engine, as JSON")
    chosen = parser.parse_args(argv)
    return serve(lambda: BundleSystem(chosen.path, chosen.threads, Choice(**chosen.choice)))


if __name__ == "__main__":
    sys.exit(main())
