"""Activation-aware low-rank factorization: the product that best keeps a matrix's outputs, not its entries.

W is replaced by U V of rank r that minimises E|W x - U V x|^2: with E[x x^T] = R R^T, the truncated SVD of W R, and R
taken out again (the whitening of SVD-LLM, Wang et al. 2024, section 3; by eigenvalues, since rounding makes some
moments indefinite). Only where it pays on the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.linalg import eigh

from attar.compress.factorize.lowrank import Apart, Budget, dense, replace_where_it_pays, take_apart
from attar.compress.statistics import second_moments
from attar.distill.step import Context
from attar.distill.student import Student


@dataclass(frozen=True)
class Settings(Budget):
    """`texts`: how many training texts show what the matrices read."""

    texts: int = 512


def apart(weight: Tensor, moment: Tensor) -> Apart:
    """weight (m, n), second moment of its input (n, n); a term's worth is its share of the output's mean square."""
    values, vectors = eigh(moment)
    root = values.clamp_min(1e-6 * float(moment.diagonal().mean().clamp_min(1e-12))).sqrt()
    return take_apart(weight, vectors * root, (vectors / root).T, relative=True)


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student with every kind of matrix factorized that is faster so on the measured engine; perhaps none."""
    weights = dense(student, settings.matrices)
    moments = second_moments(student, context.some(settings.texts), list(weights))
    found = {name: apart(weight, moments[name]) for name, weight in weights.items()}
    return replace_where_it_pays(student, "compress.factorize.activation_aware", settings, found, context)
