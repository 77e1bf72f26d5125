"""The losses of distillation methods, against numbers worked out by hand or by a formula of the test's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attar.distill.distributions import log_attention, masked_mean, scores
from attar.distill.methods.attention import attention
from attar.distill.methods.contrastive import NOBODY, Bank, contrastive
from attar.distill.methods.embeddings import cosine, mse, similarity
from attar.distill.methods.logits import logits
from attar.distill.methods.patient import patient
from attar.distill.methods.relations import relation

LOG3, LOG9 = math.log(3), math.log(9)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(x)
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def kl(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> float:
    """Of two rows of probabilities."""
    return float((teacher * np.log(teacher / student)).sum())


# --- parts --------------------------------------------------------------------------------------------------------


def test_masked_mean_by_hand() -> None:
    assert masked_mean(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1, 1, 0])).item() == 1.5
    assert masked_mean(torch.tensor([1.0, 2.0]), torch.tensor([0, 0])).item() == 0


def test_scores_by_hand() -> None:
    # Two heads of width 2: (3, 4) (1, 2) against (1, 1) (5, 0).
    found = scores(torch.tensor([[[3.0, 4.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 1.0, 5.0, 0.0]]]), 2)
    assert found.flatten().tolist() == pytest.approx([7 / math.sqrt(2), 5 / math.sqrt(2)])
    with torch.autocast("cpu", torch.bfloat16):
        again = scores(torch.tensor([[[3.0, 4.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 1.0, 5.0, 0.0]]]), 2)
    assert again.dtype == torch.float32 and torch.equal(again, found)


def test_attention_is_of_known_tokens() -> None:
    found = log_attention(torch.tensor([[[[LOG3, 0.0, 50.0]]]]), torch.tensor([[1, 1, 0]]))
    assert found.exp().flatten().tolist() == pytest.approx([0.75, 0.25, 0.0])


# --- attention ----------------------------------------------------------------------------------------------------

ONES = torch.tensor([[1, 1]])


def test_attention_divergence_by_hand() -> None:
    # Of the two rows the teacher says (3/4, 1/4) and (1/2, 1/2), the student (1/2, 1/2) of both.
    teacher = torch.tensor([[[[LOG3, 0.0], [0.0, 0.0]]]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert attention(torch.zeros(1, 1, 2, 2), teacher, ONES, "kl").item() == pytest.approx(expected / 2)
    assert attention(torch.zeros(1, 1, 2, 2), teacher, ONES, "mse").item() == pytest.approx(0.0625 / 2)
    assert attention(torch.zeros(1, 1, 2, 2), teacher, ONES, "scores").item() == pytest.approx(LOG3**2 / 2 / 2)


def test_attention_of_the_first_row_alone() -> None:
    teacher = torch.tensor([[[[LOG3, 0.0]]]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert attention(torch.zeros(1, 1, 1, 2), teacher, ONES, "kl").item() == pytest.approx(expected)


def test_attention_is_averaged_where_heads_differ() -> None:
    # The teacher's heads say (3/4, 1/4) and (1/4, 3/4): (1/2, 1/2) on average, as the student's only one.
    teacher = torch.tensor([[[[LOG3, 0.0]], [[0.0, LOG3]]]])
    for distance in ("kl", "mse"):
        assert attention(torch.zeros(1, 1, 1, 2), teacher, ONES, distance).item() == pytest.approx(0, abs=1e-6)
        assert attention(torch.zeros(1, 2, 1, 2), teacher, ONES, distance).item() > 0.01
    # (9/10, 1/10) and (1/2, 1/2) are (7/10, 3/10) on average; the scores are (log 9, 0) / 2.
    teacher = torch.tensor([[[[LOG9, 0.0]], [[0.0, 0.0]]]])
    assert attention(torch.zeros(1, 1, 1, 2), teacher, ONES, "mse").item() == pytest.approx(0.04)
    assert attention(torch.zeros(1, 1, 1, 2), teacher, ONES, "scores").item() == pytest.approx(LOG3**2 / 2)


@pytest.mark.parametrize("distance", ["kl", "mse", "scores"])
@pytest.mark.parametrize("heads", [2, 3])
def test_attention_does_not_see_padding(heads: int, distance: str) -> None:
    student, teacher = draw(2, 2, 4, 4), draw(2, heads, 4, 4, seed=1)
    known = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]])
    before = attention(student, teacher, known, distance).item()
    for place in (1, 3):
        student[1, :, place], teacher[1, :, place] = 40.0, -40.0
        student[1, :, :, place], teacher[1, :, :, place] = -40.0, 40.0
    assert attention(student, teacher, known, distance).item() == pytest.approx(before, rel=1e-5)
    assert attention(student, teacher, torch.zeros(2, 4), distance).item() == 0


# --- relations ----------------------------------------------------------------------------------------------------


def test_relation_by_hand() -> None:
    """Width 1: the scores of tokens a and b are (a a, a b) and (b a, b b)."""
    teacher = torch.tensor([[[1.0], [LOG3]]])
    student = torch.zeros(1, 2, 1)
    first = 1 / (1 + math.exp(LOG3 - 1))
    second = 1 / (1 + math.exp(LOG3 * LOG3 - LOG3))
    expected = sum(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)) for p in (first, second)) / 2
    assert relation(student, teacher, 1, ONES).item() == pytest.approx(expected, rel=1e-5)


def test_relation_by_numpy() -> None:
    """Three heads of 2 at the student and of 4 at the teacher; one text of 4 tokens and one of 2."""
    student, teacher = draw(2, 4, 6), draw(2, 4, 12, seed=1)
    total, count = 0.0, 0
    for row, length in enumerate((4, 2)):
        for head in range(3):
            s = student[row, :length, 2 * head : 2 * head + 2].double().numpy()
            t = teacher[row, :length, 4 * head : 4 * head + 4].double().numpy()
            mine, theirs = softmax(s @ s.T / math.sqrt(2)), softmax(t @ t.T / math.sqrt(4))
            total += sum(kl(theirs[i], mine[i]) for i in range(length)) / 3
        count += length
    known = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert relation(student, teacher, 3, known).item() == pytest.approx(total / count, rel=1e-5)


def test_equal_relations_cost_nothing() -> None:
    """Turned states relate to one another as before."""
    states = draw(2, 5, 6)
    turn = torch.linalg.qr(draw(6, 6, seed=3)).Q
    assert relation(states @ turn, states, 1, torch.ones(2, 5)).item() == pytest.approx(0, abs=1e-5)
    assert relation(states @ turn, states, 2, torch.ones(2, 5)).item() > 0.01


# --- embeddings, first tokens, logits -----------------------------------------------------------------------------


def test_embedding_distances_by_hand() -> None:
    student = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [5.0, 5.0]]])
    teacher = torch.tensor([[[6.0, 8.0], [0.0, 2.0], [-5.0, 0.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert cosine(student, teacher, mask).item() == pytest.approx((0 + 1) / 2)
    assert mse(student, teacher, mask).item() == pytest.approx(((9 + 16) / 2 + (1 + 4) / 2) / 2)
    # Cosines of the two tokens: 3/5 at the student, 4/5 at the teacher; of a token and itself 1 at both.
    assert similarity(student, teacher, mask).item() == pytest.approx(2 * 0.2**2 / 4, rel=1e-5)
    for distance in (cosine, mse, similarity):
        assert distance(student, teacher, torch.zeros(1, 3)).item() == 0


def test_similarity_needs_no_width() -> None:
    states = draw(2, 4, 3)
    wider = torch.cat([2 * states, torch.zeros(2, 4, 5)], -1)
    assert similarity(states, wider, torch.ones(2, 4)).item() == pytest.approx(0, abs=1e-10)


def test_patient_by_hand() -> None:
    student = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]])
    teacher = torch.tensor([[30.0, 40.0], [5.0, 0.0], [7.0, 1.0]])
    assert patient(student, teacher, torch.tensor([1, 1, 0])).item() == pytest.approx((0 + 2) / 2, abs=1e-6)


def test_logits_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 2.0], [1.0, -1.0]])
    assert logits(student, teacher).item() == pytest.approx((4 + 0 + 1 + 1) / 4)
    assert logits(student, teacher, torch.tensor([0, 1])).item() == pytest.approx(1)
    assert logits(student, teacher, torch.tensor([0, 0])).item() == 0


# --- contrastive --------------------------------------------------------------------------------------------------


def test_contrastive_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    # Cosines of the first text: 0.6 with its own, 1 and 0.8 with the bank; of the second, 1, 0 and 0.6, but the last
    # vector of the bank is its own.
    found = contrastive(student, teacher, bank, torch.tensor([[True, True], [True, False]]), 0.5)
    first = -math.log(math.exp(1.2) / (math.exp(1.2) + math.exp(2) + math.exp(1.6)))
    second = -math.log(math.exp(2) / (math.exp(2) + math.exp(0)))
    assert found.tolist() == pytest.approx([first, second], rel=1e-5)
    alone = contrastive(student, teacher, bank, torch.zeros(2, 2, dtype=torch.bool), 0.5)
    assert alone.tolist() == [0, 0]
    assert contrastive(student, teacher, bank[:0], torch.zeros(2, 0, dtype=torch.bool), 0.5).tolist() == [0, 0]


def test_the_bank_forgets_the_oldest() -> None:
    bank = Bank(3, 1)
    assert bank.owners.tolist() == [NOBODY] * 3
    for start in (0, 2):
        rows = torch.arange(start, start + 2)
        bank.push(rows[:, None].float(), rows)
    assert bank.owners.tolist() == [2, 3, 0]
    assert bank.vectors.flatten().tolist() == [2, 3, 0]
    bank.push(torch.ones(5, 1), torch.arange(10, 15))
    assert bank.owners.tolist() == [10, 11, 12]
