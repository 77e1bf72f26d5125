"""The mathematics of factorization, against the plain SVD and the best that any factors can do."""

from __future__ import annotations

import pytest
import torch

from attar.compress.factorize import activation_aware
from attar.runtime.errors import SettingsError
from tests.compress.samples import correlated, moment


def weighted(weight: torch.Tensor, found: torch.Tensor, m: torch.Tensor) -> float:
    """E|W x - V x|^2 from the second moment of x."""
    gap = (weight - found).double()
    return float((gap @ m @ gap.T).trace())


@pytest.mark.parametrize(("outputs", "inputs"), [(10, 16), (16, 10)])
def test_factors_beat_the_plain_svd(outputs: int, inputs: int) -> None:
    x = correlated(300, inputs)
    m, weight = moment(x), torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(2))
    singular = torch.linalg.svdvals(weight.double() @ torch.linalg.cholesky(m))
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    for rank in (1, 3, 6, 9):
        up, down = activation_aware.factors(weight, m, rank)
        assert up.shape == (outputs, rank) and down.shape == (rank, inputs)
        error = weighted(weight, up @ down, m)
        assert error < 0.999 * weighted(weight, (u[:, :rank] * s[:rank]) @ v[:rank], m)
        # Eckart and Young: no product of this rank does better.
        assert error == pytest.approx(float(singular[rank:].square().sum()), rel=1e-3)
    up, down = activation_aware.factors(weight, m, min(outputs, inputs))
    assert (up @ down - weight).abs().max() < 1e-4


def test_factors_with_inputs_that_never_vary() -> None:
    """Fewer samples than inputs, and one channel far larger than the rest, as transformers have them."""
    x = torch.randn(60, 256, generator=torch.Generator().manual_seed(3))
    x[:, 4] += 300
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(4))
    m = moment(x).double()
    up, down = activation_aware.factors(weight, m, 8)
    assert torch.isfinite(up).all() and torch.isfinite(down).all()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    assert weighted(weight, up @ down, m) < 0.5 * weighted(weight, (u[:, :8] * s[:8]) @ v[:8], m)


def test_factors_of_an_input_that_is_zero() -> None:
    up, down = activation_aware.factors(torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.float64), 2)
    assert torch.isfinite(up).all() and torch.isfinite(down).all()


@pytest.mark.parametrize("rank", [0, 1, -0.5, 2])
def test_rank_is_a_fraction(rank: float) -> None:
    with pytest.raises(SettingsError, match="rank is a fraction"):
        activation_aware.Settings(rank=rank)


def test_unknown_matrix_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown matrix 'ffn'; known: query"):
        activation_aware.Settings(matrices=("ffn",))
