"""A recipe that works, the commands that read data, and what tests of their refusals call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
