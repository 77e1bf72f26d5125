"""`match = "auto"`: how alike layers are, the best rising match, and students whose layers are known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.distill import distil
from attar.distill.similarity import linear_cka, most_alike, rising
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.distill.classroom import context
from tests.distill.test_supervision import trained
from tests.models import corpus, make_checkpoint


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cka_by_hand() -> None:
    """Of single columns it is the square of the correlation, which is 1/2 of (1, 2, 3) and (1, 3, 2)."""
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [3.0], [2.0]])
    assert linear_cka(x, y) == pytest.approx(0.25)
    assert linear_cka(x, 5 - 3 * x) == pytest.approx(1)
    assert linear_cka(x, torch.ones(3, 2)) == 0


def test_cka_by_kernels() -> None:
    """The same by HSIC of the centred kernels (Kornblith et al. 2019, equations 3 and 4)."""
    x, y = (draw(9, width, seed=width).double().numpy() for width in (4, 6))
    centre = np.eye(9) - 1 / 9
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    expected = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected)


def test_cka_does_not_see_turns_and_scale() -> None:
    x, turn = draw(20, 6), torch.linalg.qr(draw(6, 6, seed=1)).Q
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    assert linear_cka(x, draw(20, 6, seed=2)) < 0.6


def test_rising_by_hand() -> None:
    # Each row by itself would take the last column. In rising order the sums are 5 + 0, 5 + 4 and 1 + 4.
    assert rising(torch.tensor([[5.0, 1.0, 6.0], [0.0, 0.0, 4.0]])) == (0, 2)
    assert rising(torch.zeros(0, 3)) == ()
    assert rising(torch.eye(3)) == (0, 1, 2)


@given(st.integers(0, 4), st.integers(0, 3), st.integers(0, 1000))
def test_rising_is_the_best_of_all(rows: int, more: int, seed: int) -> None:
    gains = torch.rand(rows, rows + more, generator=torch.Generator().manual_seed(seed)).double()
    every = combinations(range(rows + more), rows)
    best = max(every, key=lambda chosen: sum(gains[i, j].item() for i, j in enumerate(chosen)))
    assert rising(gains) == best


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("similarity")
    train = corpus("text-classification", 24, seed=3)
    return context(make_checkpoint(folder / "teacher", layers=6), folder / "targets", train)


def test_the_teachers_own_layers_are_found(where: Context) -> None:
    """The first two of six layers, with another one behind them, are most like the first two."""
    teacher = Student.load(where.teacher)
    student = distil.take_layers(teacher, (1, 2, 6))
    assert most_alike(student, where) == (1, 2, 6)
    assert most_alike(distil.take_layers(teacher, (1,)), where) == (6,)
    assert most_alike(teacher, where) == (1, 2, 3, 4, 5, 6)
    assert len(most_alike(replace(student, tokenizer=trained(60)), where)) == 3


def test_a_step_with_auto(where: Context) -> None:
    student, digest = Student.load(where.teacher), (where.teacher / "model.safetensors").read_bytes()
    methods = ({"use": "soft_targets"}, {"use": "hidden_states", "match": "auto"})
    settings = distil.Settings(layers=(1, 2, 6), methods=methods, epochs=0.5, batch_size=8)
    result = distil.apply(student, settings, where)
    assert result.lineage[-1]["matched"] == [[], [1, 2, 6]]
    listed = distil.Settings(
        layers=(1, 2, 6), methods=(methods[0], {**methods[1], "match": (1, 2, 6)}), epochs=0.5, batch_size=8
    )
    assert distil.apply(student, listed, where).digest() == result.digest()
    assert (where.teacher / "model.safetensors").read_bytes() == digest


def test_auto_that_is_refused(where: Context) -> None:
    teacher = Student.load(where.teacher)
    with pytest.raises(SettingsError, match="7 layers cannot be matched by rule to the teacher's 6; list them"):
        most_alike(distil.take_layers(teacher, (1, 2, 3, 4, 5, 6, 6)), where)
    with pytest.raises(SettingsError, match="there are none; list the layers"):
        most_alike(teacher, replace(where, train=Examples((), None, "nothing")))
