"""Plain low-rank factorization: the truncated SVD of each matrix, which needs no texts (Eckart & Young 1936).

The measure against which the methods that look at texts are to be judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attar.compress.factorize.lowrank import Apart, Budget, dense, replace_where_it_pays, take_apart
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings(Budget):
    pass


def apart(weight: Tensor) -> Apart:
    """weight (m, n), by its own singular values; a term's worth is its share of the sum of squared entries."""
    unit = torch.eye(weight.shape[1], dtype=torch.float64)
    return take_apart(weight, unit, unit, relative=True)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student with every kind of matrix factorized that is faster so on the measured engine; perhaps none."""
    found = {name: apart(weight) for name, weight in dense(student, settings.matrices).items()}
    return replace_where_it_pays(student, "compress.factorize.svd", settings, found, context)
