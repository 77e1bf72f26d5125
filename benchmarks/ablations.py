"""Which method earned what: one rung of a ladder trained with each list of methods and several seeds, judged on test.

python benchmarks/ablations.py recipes/clinc150-ladder.toml --rung static --out build/ladder --seeds 3
python benchmarks/ablations.py recipes/clinc150-ladder.toml --rung three-layers --out build/ladder --epochs 0.3
python benchmarks/ablations.py recipes/clinc150-ladder.toml --rung three-layers --out build/ladder --only labels,soft

The first distil step of the rung is repeated with other methods; steps behind it (a second distillation, quantization)
are left out, as they blur what the methods differ by. `labels`, which learns from labelled texts alone, takes as many
steps as the others where `--epochs` is given. What is cached is not run again, and the teacher is that of
`attar ladder`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from attar.export.bundle import in_memory
from attar.pipeline.progress import Console
from attar.pipeline.recipe import Recipe, read_ladder
from attar.pipeline.run import Run
from attar.pipeline.stages import folder_digest
from attar.pipeline.steps import points

SOFT, LABELS = {"use": "soft_targets"}, {"use": "labels", "weight": 0.2}
VARIANTS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "labels": [{"use": "labels"}],
    "soft": [SOFT],
    "logits": [{"use": "logits"}],
    "soft + labels": [SOFT, LABELS],
    "soft + labels + hidden states": [SOFT, LABELS, {"use": "hidden_states"}],
    "soft + labels + relations": [SOFT, LABELS, {"use": "relations"}],
    "soft + labels + first-token states": [SOFT, LABELS, {"use": "patient", "weight": 10.0}],
    "soft + labels + contrastive": [SOFT, LABELS, {"use": "contrastive", "weight": 0.1}],
    "soft + labels + mixup": [SOFT, LABELS, {"use": "mixup", "layer": 1}],
}
"""`labels` alone is plain fine-tuning, without a teacher."""
ALONE = "labels"
LAYERED = ("hidden states", "relations", "first-token states", "contrastive", "mixup")


def with_methods(rung: Recipe, methods: Sequence[Mapping[str, Any]], seed: int, epochs: float | None) -> Recipe:
    """The rung up to its first distil step, with these methods in it, this seed throughout, and so many epochs."""
    first = next(i for i, step in enumerate(rung.steps) if step.use == "distill.distil")
    steps = [
        replace(s, settings=replace(s.settings, seed=seed)) if hasattr(s.settings, "seed") else s
        for s in rung.steps[: first + 1]
    ]
    own: dict[str, Any] = {"methods": tuple(methods)} | ({} if epochs is None else {"epochs": epochs})
    steps[first] = replace(steps[first], settings=replace(steps[first].settings, **own))
    return replace(rung, steps=tuple(steps))


def score(recipe: Recipe, out: Path, home: Path) -> float:
    """Points on test of the student in fp32, by the exported bytes."""
    run = Run(recipe, out, Console(), home=home)
    teacher = run.teacher()
    run.teacher_key = folder_digest(teacher)
    student, _, _ = run.steps(teacher, run.judge_teacher(teacher)["dev"])
    return points(in_memory(student()), run.data.splits.test)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("ladder", type=Path)
    parser.add_argument("--rung", required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder of `attar ladder`, whose teacher is used")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, help="of that distil step (default: the recipe's)")
    parser.add_argument("--only", default="", help="variants by name, with commas between them")
    args = parser.parse_args()
    rungs = {recipe.name: recipe for recipe in read_ladder(args.ladder)}
    rung = rungs[args.rung]
    layers = any(step.use == "distill.students.encoder" for step in rung.steps)
    chosen = args.only.split(",") if args.only else [n for n in VARIANTS if layers or not n.endswith(LAYERED)]
    print(f"| {args.rung}, methods | test, mean of {args.seeds} seeds | spread (standard deviation) | each |")
    print("|---|---|---|---|", flush=True)
    data = Run(rung, args.out / rung.name, Console(), home=args.out).data
    texts = len(data.splits.train) + len(data.unlabelled)
    for name in chosen:
        epochs = args.epochs and args.epochs * (texts / len(data.splits.train) if name == ALONE else 1)
        place = args.out / "ablations" / args.rung
        found = [
            score(
                with_methods(rung, VARIANTS[name], seed, epochs),
                place / f"{name.replace(' ', '')}-{seed}",
                args.out,
            )
            for seed in range(args.seeds)
        ]
        spread = f"{stdev(found):.2f}" if len(found) > 1 else ""
        each = ", ".join(f"{value:.2f}" for value in found)
        print(f"| {name} | {mean(found):.2f} | {spread} | {each} |", flush=True)


if __name__ == "__main__":
    main()
