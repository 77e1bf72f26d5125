"""The losses of every kind of head, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.distill.objectives import hard, soft, supervised_contrastive
from attar.runtime.tasks.base import IGNORED, Head

CLASS = Head("logits", 3, "first", "classes")
TAGS = Head("logits", 2, "tokens", "classes")
LABELS = Head("logits", 2, "first", "labels")
VALUE = Head("logits", 1, "first", "value")
SPAN = Head("logits", 2, "tokens", "span")
VECTOR = Head("sentence_embedding", 2, "mean", "vector", unit=True)
HEADS = (CLASS, TAGS, LABELS, VALUE, SPAN, VECTOR)
LOG3, LOG9 = math.log(3), math.log(9)


def divergence(teacher: list[float], student: list[float]) -> float:
    """KL(teacher || student) of two distributions."""
    return sum(q * math.log(q / p) for q, p in zip(teacher, student, strict=True) if q)


# --- towards true targets -----------------------------------------------------------------------------------------


def test_classes_by_hand() -> None:
    # Probabilities (3/5, 1/5, 1/5) of the first row and (1/3, 1/3, 1/3) of the second.
    found = torch.tensor([[LOG3, 0.0, 0.0], [7.0, 7.0, 7.0]])
    loss = hard(CLASS, found, torch.tensor([0, 2]), torch.ones(2, 4))
    assert loss.item() == pytest.approx((math.log(5 / 3) + math.log(3)) / 2)


def test_tags_are_averaged_over_tokens_that_have_one() -> None:
    found = torch.tensor([[[9.0, 0.0], [LOG3, 0.0], [0.0, 0.0]], [[0.0, LOG9], [5.0, 0.0], [0.0, 5.0]]])
    target = torch.tensor([[IGNORED, 0, 1], [1, IGNORED, IGNORED]])
    # What is left: 3/4, 1/2 and 9/10.
    expected = (math.log(4 / 3) + math.log(2) + math.log(10 / 9)) / 3
    assert hard(TAGS, found, target, torch.ones(2, 3)).item() == pytest.approx(expected)
    found[target == IGNORED] = 1e6
    assert hard(TAGS, found, target, torch.ones(2, 3)).item() == pytest.approx(expected)


def test_a_batch_without_any_tag_teaches_nothing() -> None:
    found = torch.randn(2, 3, 2, requires_grad=True)
    loss = hard(TAGS, found, torch.full((2, 3), IGNORED), torch.ones(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert found.grad is not None and found.grad.abs().max() == 0


def test_labels_by_hand() -> None:
    # Each label by itself: probabilities (3/4, 1/2) and (1/10, 3/4).
    found = torch.tensor([[LOG3, 0.0], [-LOG9, LOG3]])
    loss = hard(LABELS, found, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.ones(2, 4))
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2) + math.log(10 / 9) + math.log(4)) / 4)


def test_values_by_hand() -> None:
    found, target = torch.tensor([[1.0], [-2.0]]), torch.tensor([[1.5], [1.0]])
    assert hard(VALUE, found, target, torch.ones(2, 4)).item() == pytest.approx((0.25 + 9) / 2)


def test_spans_are_of_the_tokens_that_are_there() -> None:
    # Row 1: starts (3/5, 1/5, 1/5), ends (1/3, 1/3, 1/3); row 2 has two tokens: starts (1/2, 1/2), ends (1/4, 3/4).
    start = torch.tensor([[LOG3, 0.0, 0.0], [4.0, 4.0, 99.0]])
    end = torch.tensor([[0.0, 0.0, 0.0], [0.0, LOG3, 99.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    loss = hard(SPAN, torch.stack([start, end], -1), torch.tensor([[0, 2], [1, 1]]), mask)
    starts, ends = (math.log(5 / 3) + math.log(2)) / 2, (math.log(3) + math.log(4 / 3)) / 2
    assert loss.item() == pytest.approx((starts + ends) / 2)


def test_supervised_contrastive_by_hand() -> None:
    """Two texts of one class at 60 degrees, and one of another at a right angle to the first."""
    vectors = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)], [0.0, 1.0]])
    a, b, c = 0.5, 0.0, math.sqrt(0.75)  # cosines: first and second, first and third, second and third
    first = -math.log(math.exp(a) / (math.exp(a) + math.exp(b)))
    second = -math.log(math.exp(a) / (math.exp(a) + math.exp(c)))
    found = supervised_contrastive(vectors, torch.tensor([4, 4, 9]), temperature=1.0)
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-5)  # the third has no partner
    cold = supervised_contrastive(vectors, torch.tensor([4, 4, 9]), temperature=0.5)
    first = -math.log(math.exp(2 * a) / (math.exp(2 * a) + math.exp(2 * b)))
    second = -math.log(math.exp(2 * a) / (math.exp(2 * a) + math.exp(2 * c)))
    assert cold.item() == pytest.approx((first + second) / 2, rel=1e-5)
    assert hard(VECTOR, vectors, torch.tensor([4, 4, 9]), torch.ones(3, 4)).item() == pytest.approx(
        supervised_contrastive(vectors, torch.tensor([4, 4, 9])).item()
    )


def test_several_partners_count_alike() -> None:
    # Four texts, three of one class: all at right angles, so every other text has probability 1/3.
    found = supervised_contrastive(torch.eye(4), torch.tensor([1, 1, 1, 0]))
    assert found.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("classes", [[0, 1, 2], [5]])
def test_a_batch_without_a_pair_teaches_nothing(classes: list[int]) -> None:
    vectors = torch.eye(3)[: len(classes)].requires_grad_()
    loss = supervised_contrastive(vectors, torch.tensor(classes))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None and vectors.grad.abs().max() == 0


# --- towards a teacher's outputs ----------------------------------------------------------------------------------


def test_soft_classes_by_hand() -> None:
    student, teacher = torch.zeros(1, 3), torch.tensor([[2 * LOG3, 0.0, 0.0]])
    expected = 4 * divergence([0.6, 0.2, 0.2], [1 / 3] * 3)  # softened by 2
    assert soft(CLASS, student, teacher, torch.ones(1, 5), 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_soft_tags_are_averaged_over_the_mask() -> None:
    teacher = torch.tensor([[[LOG3, 0.0], [0.0, 0.0], [50.0, 0.0]]])
    found = soft(TAGS, torch.zeros(1, 3, 2), teacher, torch.tensor([[1, 1, 0]]), 1.0)
    assert found.item() == pytest.approx(divergence([0.75, 0.25], [0.5, 0.5]) / 2, rel=1e-5)
    assert soft(TAGS, torch.zeros(1, 3, 2), teacher, torch.zeros(1, 3), 1.0).item() == 0


def test_soft_labels_by_hand() -> None:
    # The teacher says 3/4 and 1/2 where the student says 1/2 and 1/2.
    found = soft(LABELS, torch.zeros(1, 2), torch.tensor([[LOG3, 0.0]]), torch.ones(1, 5), 1.0)
    assert found.item() == pytest.approx(divergence([0.75, 0.25], [0.5, 0.5]) / 2, rel=1e-5)


def test_soft_values_by_hand() -> None:
    found = soft(VALUE, torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [1.0]]), torch.ones(2, 5), 2.0)
    assert found.item() == pytest.approx((4 + 1) / 2)


def test_soft_spans_by_hand() -> None:
    """Distributions over the two tokens that are there; the third is padding, whatever stands there."""
    teacher = torch.tensor([[[LOG3, 0.0], [0.0, 0.0], [30.0, -30.0]]])
    student = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [-30.0, 30.0]]])
    found = soft(SPAN, student, teacher, torch.tensor([[1, 1, 0]]), 1.0)
    # Of start: (3/4, 1/4) against (1/2, 1/2); of end they agree.
    assert found.item() == pytest.approx(divergence([0.75, 0.25], [0.5, 0.5]) / 2, rel=1e-5)


def test_soft_vectors_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert soft(VECTOR, student, teacher, torch.ones(2, 5), 2.0).item() == pytest.approx((2 + 0) / 2)


@given(st.sampled_from(HEADS), st.integers(0, 1000), st.floats(0.5, 8), st.floats(-3, 3))
def test_soft_is_zero_for_equal_outputs_only(head: Head, seed: int, temperature: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 4, head.outputs) if head.reads == "tokens" else (2, head.outputs)
    outputs, other = (torch.randn(shape, generator=generator) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    assert soft(head, outputs, outputs, mask, temperature).item() == pytest.approx(0, abs=1e-5)
    if head.objective in ("classes", "span"):  # a softmax does not see what all logits share
        assert soft(head, outputs + shift, outputs, mask, temperature).item() == pytest.approx(0, abs=1e-4)
    assert soft(head, other, outputs, mask, temperature).item() > 1e-4


@pytest.mark.parametrize("head", [TAGS, SPAN], ids=["tags", "span"])
def test_padding_counts_for_nothing(head: Head) -> None:
    """What stands behind a row's tokens changes neither loss."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found, teacher = (torch.randn(2, 4, 2, generator=generator) for _ in range(2))
    target = torch.tensor([[0, 3], [1, 1]]) if head is SPAN else torch.tensor([[0, 1, 0, 1], [1, 0, IGNORED, IGNORED]])
    losses = hard(head, found, target, mask).item(), soft(head, found, teacher, mask, 2.0).item()
    found[1, 2:], teacher[1, 2:] = 40.0, -40.0
    assert hard(head, found, target, mask).item() == pytest.approx(losses[0], rel=1e-6)
    assert soft(head, found, teacher, mask, 2.0).item() == pytest.approx(losses[1], rel=1e-6)
