"""A recipe that works and what it reads, the commands that read data, and what tests of their refusals call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attar.runtime.bench.paired import Ratio
from tests.models import make_checkpoint, sentences

RECIPE = """
name = "tiny"

[data]
train = "train.csv"
dev = 20
test = 30

[teacher]
model = "base"
epochs = 1
max_length = 32

[[step]]
use = "distill.distil"
layers = [1]
epochs = 1

[[step]]
use = "compress.quantize.int8"
"""

Refused = Callable[..., str]
CONVERT = ("convert", "base", "--out", "new", "--data")
DISTILL = ("distill", "base", "--out", "new", "--data")
COMPRESS = ("compress", "base", "--teacher", "base", "--data", "train.csv", "--out", "new", "--recipe")
RUN = ("run", "recipe.toml", "--out", "new", "--data")
READERS = pytest.mark.parametrize("command", [CONVERT, DISTILL, RUN], ids=lambda c: c[0])


def write_material(folder: Path, recipe: str = RECIPE, layers: int = 1) -> None:
    """base/ (a fine-tuned classifier), train.csv and recipe.toml."""
    make_checkpoint(folder / "base", layers=layers, hidden=16, ffn=32, heads=2)
    found = sentences(200)
    rows = [f'"{text}",{label}' for text, label in zip(found.texts, found.labels or (), strict=True)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "recipe.toml").write_text(recipe)


def untimed(patch: pytest.MonkeyPatch) -> None:
    """A run takes no times: a step pays, and nothing is measured at the end."""
    patch.setattr("attar.pipeline.steps.speedup", lambda *_: Ratio(1.5, 1.4, 1.6, 11))
    nothing = {"bench": None, "overhead": None, "dev": 0.0, "p50_ms": 1.0}
    patch.setattr("attar.pipeline.run.Run.measure", lambda _: nothing)
