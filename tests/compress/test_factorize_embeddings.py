"""Factorized word embeddings: the best short rows for what is read, and a student that goes on like any other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compress import vocabulary
from attar.compress.factorize import embeddings
from attar.distill.encoder import Encoder, from_json
from attar.distill.student import Student
from attar.distill.students import encoder as another
from attar.runtime.data import Examples
from attar.runtime.errors import ModelError, SettingsError
from tests.models import EDGE_TEXTS, make_student, sentences

TRAIN, NOTHING = sentences(40, seed=8), Examples((), None, "nothing")
CONTEXT: Any = SimpleNamespace(train=TRAIN, unlabelled=NOTHING)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("embeddings") / "bert")


def shortened(student: Student, budget: float = 0.5) -> Student:
    return embeddings.apply(student, embeddings.Settings(budget), CONTEXT)


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=30)
def test_no_table_of_that_rank_is_nearer(seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(30, 10, generator=generator)
    counts = torch.randint(1, 50, (30,), generator=generator)
    rows, up = embeddings.factors(table, counts, rank)
    assert rows.shape == (30, rank) and up.shape == (10, rank)
    error = float((counts[:, None] * (table - rows @ up.T).square()).sum())
    # Eckart and Young, for the table whose rows are weighted by the roots of the counts.
    singular = torch.linalg.svdvals(counts.double().sqrt()[:, None] * table.double())
    assert error == pytest.approx(float(singular[rank:].square().sum()), rel=1e-3, abs=1e-4)
    # The short rows are as far apart as the long ones that they stand for.
    assert torch.allclose(up.T @ up, torch.eye(rank), atol=1e-5)


def test_rows_that_are_read_often_are_kept_best() -> None:
    table = torch.eye(4)
    rows, up = embeddings.factors(table, torch.tensor([1, 9, 1, 9]), 2)
    assert torch.allclose(rows @ up.T, torch.diag(torch.tensor([0.0, 1, 0, 1])), atol=1e-6)


@pytest.mark.parametrize(("budget", "rank"), [(0.5, 184), (0.1, 32), (0.99, 368)])
def test_the_rank_is_what_the_budget_buys(budget: float, rank: int) -> None:
    """30522 x 384 entries, and 30906 for each of the rank: at 379.2 there would be as many."""
    assert embeddings.rank_of(30522, 384, budget) == rank
    assert rank * 30906 <= budget * 30522 * 384 < (rank + 8) * 30906


def test_impossible_budgets_are_refused(student: Student) -> None:
    with pytest.raises(SettingsError, match=r"budget 0\.01 cannot be met: with rank 8, the lowest, 0\.0211 of 30522"):
        embeddings.rank_of(30522, 384, 0.01)
    for budget in (0, 1, 1.5):
        with pytest.raises(SettingsError, match="budget is a fraction"):
            embeddings.Settings(budget)
    with pytest.raises(SettingsError, match="factorized already"):
        shortened(shortened(student))


def test_the_table_is_the_product(student: Student) -> None:
    small = shortened(student, 0.7)
    rank = small.transformer.shape.word_rank
    assert rank == small.lineage[-1]["rank"] == 16
    assert small.transformer.words.weight.shape == (student.encoder.shape.vocab, rank)
    whole = student.copy()
    with torch.no_grad():
        whole.transformer.words.weight.copy_(small.transformer.words_up(small.transformer.words.weight))
    assert (whole.logits(EDGE_TEXTS) - small.logits(EDGE_TEXTS)).abs().max() < 1e-4


def test_sizes_of_students_without_it_are_recorded_as_ever(student: Student) -> None:
    assert "word_rank" not in student.encoder.shape.to_json()
    again = from_json(shortened(student).encoder.shape.to_json() | {"heads": student.encoder.shape.heads})
    assert isinstance(again, Encoder) and again.shape.word_rank == 8


def test_a_vocabulary_can_be_trimmed_afterwards(student: Student) -> None:
    short = shortened(student)
    context: Any = SimpleNamespace(train=Examples(("a dull plot",), None, "few"), unlabelled=NOTHING)
    few = vocabulary.apply(short, vocabulary.Settings(), context)
    assert few.encoder.words.weight.shape[0] < short.encoder.words.weight.shape[0]
    assert (few.logits(["a dull plot"]) - short.logits(["a dull plot"])).abs().max() < 1e-5


def test_what_cannot_be_done_is_said(student: Student) -> None:
    with pytest.raises(SettingsError, match="a factorized student cannot be made narrower"):
        another.narrowed(shortened(student), 16)
    broken = student.copy()
    broken.transformer.words.weight.data[3, 0] = float("inf")
    with pytest.raises(ModelError, match=r"words\.weight holds \d+ of"):
        shortened(broken)
