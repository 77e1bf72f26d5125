"""Label propagation against the closed form on a dense graph, and where labels must and must not go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.distill.data.propagate import UNKNOWN, propagate
from attar.runtime.errors import SettingsError


def closed_form(embeddings: np.ndarray, labels: np.ndarray, k: int, alpha: float) -> np.ndarray:
    """(1 - alpha) (I - alpha S)^-1 Y of Zhou et al. (2004), by dense matrices in float64."""
    count = len(embeddings)
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    a = np.zeros((count, count))
    for i in range(count):
        for j in np.argsort(-cosines[i])[: min(k, count - 1)]:
            a[i, j] = max(cosines[i, j], 0)
    w = a + a.T
    d = np.diag(1 / np.sqrt(w.sum(1)))
    y = np.eye(labels.max() + 1)[np.maximum(labels, 0)] * (labels != UNKNOWN)[:, None]
    return np.asarray((1 - alpha) * np.linalg.solve(np.eye(count) - alpha * d @ w @ d, y))


@given(seed=st.integers(0, 12), k=st.integers(1, 40), alpha=st.sampled_from([0.2, 0.9, 0.99]))
def test_it_is_the_closed_form(seed: int, k: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    # Mostly of positive cosine, so no row is alone; of these seeds none has two neighbours equal in float32.
    embeddings = (rng.standard_normal((30, 5)) + 1).astype(np.float32)
    labels = np.full(30, UNKNOWN)
    labels[:6] = [0, 1, 2, 0, 1, 2]
    scores = closed_form(embeddings, labels, k, alpha)
    found = propagate(embeddings, labels, k, alpha)
    total = scores.sum(1, keepdims=True)
    reached = total[:, 0] > 1e-6
    np.testing.assert_allclose(found[reached], (scores / np.where(total > 0, total, 1))[reached], atol=1e-4)


def test_one_label_fills_its_cluster_and_no_other() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    embeddings = np.concatenate([c + 0.05 * rng.standard_normal((50, 3)) for c in centres]).astype(np.float32)
    labels = np.full(150, UNKNOWN)
    labels[[0, 50]] = [0, 1]
    found = propagate(embeddings, labels, k=5, alpha=0.99)
    assert found.shape == (150, 2)
    assert found[:50].argmax(1).tolist() == [0] * 50 and found[50:100].argmax(1).tolist() == [1] * 50
    np.testing.assert_allclose(found[:100].sum(1), 1)
    assert not found[100:].any()  # no label reaches the third cluster


def test_a_wrong_label_is_outvoted() -> None:
    rng = np.random.default_rng(1)
    embeddings = (np.array([1, 1]) + 0.05 * rng.standard_normal((40, 2))).astype(np.float32)
    labels = np.full(40, UNKNOWN)
    labels[:10] = [1] + [0] * 9
    assert propagate(embeddings, labels, k=39, alpha=0.99).argmax(1).tolist() == [0] * 40
    assert propagate(embeddings, labels, k=39, alpha=0.1)[0].argmax() == 1  # its own counts for more


def test_a_single_text_keeps_its_label() -> None:
    assert propagate(np.ones((1, 3), np.float32), np.array([2])).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("labels", "k", "alpha", "words"),
    [
        ([0, 1], 5, 0.9, r"labels of shape \(2,\) for embeddings of shape \(3, 2\): give one a row"),
        ([-1, -1, -1], 5, 0.9, "at least one of them"),
        ([0, -2, 1], 5, 0.9, "-1 for unknown ones"),
        ([0, -1, 1], 0, 0.9, "k must be 1 or more, not 0"),
        ([0, -1, 1], 5, 1.0, "alpha between 0 and 1, not 1.0"),
    ],
)
def test_impossible_questions(labels: list[int], k: int, alpha: float, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        propagate(np.ones((3, 2), np.float32), np.array(labels), k, alpha)
