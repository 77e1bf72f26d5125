"""Labels for unlabelled texts by their neighbours alone: no teacher has to be sure of them.

Learning with local and global consistency (Zhou et al. 2004) on a graph of each text's nearest neighbours by cosine,
solved by conjugate gradients as Iscen et al. (2019, section 3) do: the plain iteration takes thousands of rounds where
alpha is near 1.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.distill.data.neighbours import Floats, nearest
from attar.runtime.errors import SettingsError

UNKNOWN = -1
TOLERANCE = 1e-8
"""Of a class's residual, relative to its labels."""


def propagate(embeddings: Floats, labels: NDArray[np.int64], k: int = 10, alpha: float = 0.99) -> NDArray[np.float64]:
    """Distributions over classes (N, C) of texts with embeddings (N, D), of which some have `labels` (N,), the others
    `UNKNOWN`.

    `k`: neighbours a text; `alpha`: how much of a text's label comes from its neighbours, the rest is its own. A text
    that no label reaches has a row of zeros. A labelled text may end up with another class than it was given.
    """
    _check(embeddings, labels, k, alpha)
    known = np.flatnonzero(labels != UNKNOWN)
    given = torch.zeros((len(labels), int(labels.max()) + 1), dtype=torch.float64)
    given[known, labels[known]] = 1 - alpha
    # Scores are never negative, but what solves for them is exact only up to its tolerance.
    scores = solve(graph(embeddings, k), given, alpha).clamp_min(0)
    total = scores.sum(1, keepdim=True)
    reached = total > TOLERANCE * (1 - alpha)
    return (torch.where(reached, scores, 0) / torch.where(reached, total, 1)).numpy()


def _check(embeddings: Floats, labels: NDArray[np.int64], k: int, alpha: float) -> None:
    if embeddings.ndim != 2 or labels.shape != (len(embeddings),):
        raise SettingsError(
            f"labels of shape {labels.shape} for embeddings of shape {embeddings.shape}: give one a row"
        )
    if not len(labels) or labels.max() < 0 or labels.min() < UNKNOWN:
        raise SettingsError(
            f"labels must be class numbers from 0, at least one of them, and {UNKNOWN} for unknown ones"
        )
    if k < 1 or not 0 < alpha < 1:
        raise SettingsError(f"k must be 1 or more, not {k}, and alpha between 0 and 1, not {alpha}")


def graph(embeddings: Floats, k: int) -> Tensor:
    """S = D^-1/2 W D^-1/2, sparse (N, N) in float64: W is A + A^T, where A has the cosines, if above 0, of each row's k
    nearest others, and D the sums of W's rows."""
    count = len(embeddings)
    own = np.arange(count)
    found, cosines = nearest(embeddings, embeddings, k, (own, own))
    rows, columns = torch.from_numpy(np.repeat(own, found.shape[1])), torch.from_numpy(found.ravel())
    weights = torch.from_numpy(cosines.ravel()).double().clamp_min(0)
    edges = torch.stack([torch.cat([rows, columns]), torch.cat([columns, rows])])
    degrees = torch.zeros(count, dtype=torch.float64).index_add_(0, edges[0], weights.repeat(2))
    scale = degrees.clamp_min(1e-12).rsqrt()
    values = weights.repeat(2) * scale[edges[0]] * scale[edges[1]]
    return torch.sparse_coo_tensor(edges, values, (count, count), check_invariants=False).coalesce()


def solve(similar: Tensor, given: Tensor, alpha: float) -> Tensor:
    """F (N, C) with (I - alpha S) F = given, each column by conjugate gradients: the matrix is positive definite, for
    no eigenvalue of S is above 1."""
    found, residual = torch.zeros_like(given), given.clone()
    direction, power = residual.clone(), residual.square().sum(0)
    enough = TOLERANCE**2 * power
    for _ in range(len(given) + 100):
        if bool((power <= enough).all()):
            break
        product = direction - alpha * torch.sparse.mm(similar, direction)
        # A column that is done has nothing left to move, and must not be divided by.
        step = power / (direction * product).sum(0).clamp_min(1e-300)
        found += step * direction
        residual -= step * product
        power, before = residual.square().sum(0), power
        direction = residual + power / before.clamp_min(1e-300) * direction
    return found
