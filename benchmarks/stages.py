"""What each stage of a run lost on test, which the run itself judges at its end alone, and what its layers compute.

python benchmarks/stages.py recipes/sentiment.toml build/sentiment
python benchmarks/stages.py recipes/clinc150-ladder.toml build/ladder/half-of-the-teacher --rung half-of-the-teacher

Of each stage of the folder the newest student, by its exported bytes. FLOPs of the layers for 16 tokens, as a share of
the first stage's: of a network without layers 0.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from pruning import flops

from attar.distill.encoder import EncoderShape
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.pipeline.data import named_splits, read_data
from attar.pipeline.recipe import read_ladder, read_recipe
from attar.pipeline.steps import points

TOKENS = 16


def students(out: Path) -> list[Path]:
    """The newest folder of every numbered stage, in their order."""
    found: dict[str, Path] = {}
    for stage in sorted((out / "stages").glob("[0-9][0-9]-*"), key=lambda path: path.stat().st_mtime):
        if (stage / "student").is_dir():
            found[stage.name[:2]] = stage
    return [found[number] for number in sorted(found)]


def work(student: Student) -> float:
    """Multiply-adds of the layers for a row of `TOKENS` tokens."""
    shape = student.encoder.shape
    return flops(shape.layers, shape.first_only, TOKENS, shape.hidden) if isinstance(shape, EncoderShape) else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rung", help="of a ladder, the one that this folder is of")
    args = parser.parse_args()
    rungs = {r.name: r for r in read_ladder(args.recipe)} if args.rung else {}
    data = read_data(rungs[args.rung] if args.rung else read_recipe(args.recipe))
    whole = 0.0
    print("| stage | dev | test | FLOPs of the layers | parameters, M |\n|---|---|---|---|---|")
    for stage in students(args.out):
        student = Student.load(stage / "student")
        splits, model = named_splits(student.task, data.splits), in_memory(student)
        whole = whole or work(student)
        scores = [f"{points(model, part):.2f}" for part in (splits.dev, splits.test)]
        share = f"{100 * work(student) / whole:.0f} %" if whole else ""
        cells = [re.sub(r"-[0-9a-f]{16}$", "", stage.name), *scores, share]
        print("| " + " | ".join([*cells, f"{student.encoder.parameter_count() / 1e6:.1f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
