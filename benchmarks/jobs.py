"""A job over a Parquet file: which share of its time is the model's, and whether memory grows with the file.

python benchmarks/jobs.py build/sentiment/bundle --rows 20000
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs_rows import arguments, write_rows

from attar.runtime.jobs import Settings, answer_file
from attar.runtime.model import load


def measure(bundle: Path, source: Path, target: Path, send: Any) -> None:
    """Processor seconds of one job by what they went to, and the most memory that it held, in MiB."""
    model = load(bundle, threads=1)
    spent = {"tokenize": 0.0, "network": 0.0, "answers": 0.0}

    def timed(name: str, what: Any) -> Any:
        def call(*given: Any) -> Any:
            start = time.process_time()
            try:
                return what(*given)
            finally:
                spent[name] += time.process_time() - start

        return call

    encode, outputs, answers = model.task.encode, timed("network", model.outputs), timed("answers", model.task.answers)

    def answer(texts: Sequence[Any]) -> list[Any]:
        encoded = timed("tokenize", encode)(model.tokenizer, texts)
        found: list[Any] = answers(encoded, outputs(encoded))
        return found

    model.answer = answer  # type: ignore[method-assign]
    start = time.process_time()
    answer_file(model, source, target, Settings(chunk=1024))
    total = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    send.send({"seconds": total, "peak": peak, **{name: value / total for name, value in spent.items()}})


def main() -> None:
    args = arguments(__doc__)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        for rows in (args.rows // 4, args.rows):
            source = write_rows(Path(scratch, f"{rows}.parquet"), rows)
            for ending in (".parquet", ".jsonl"):
                here, there = context.Pipe()
                target = Path(scratch, f"{rows}-answers{ending}")
                child = context.Process(target=measure, args=(args.bundle, source, target, there))
                child.start()
                found = here.recv()
                child.join()
                rest = 1 - found["tokenize"] - found["network"] - found["answers"]
                print(
                    f"{rows} rows into {ending}: network {found['network']:.1%}, tokenizer {found['tokenize']:.1%}, "
                    f"answers {found['answers']:.1%}, reading and writing {rest:.1%} of the processor's time; "
                    f"peak memory {found['peak']:.0f} MiB"
                )
                print(json.dumps({"rows": rows, "output": ending, **found}))


if __name__ == "__main__":
    main()
