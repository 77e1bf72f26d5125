"""Averages of several teachers' outputs: by hand, and against the same formulas in torch in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attar.distill.ensemble import BLOCK, Ensemble, Member, averaged, combined, log_shares
from attar.distill.teacher import Targets
from attar.runtime.tasks.base import Head
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.regression import Regression
from attar.runtime.tokenizer import Encoded

CLASSES = Head("logits", 2, "first", "classes")
TAGS = Head("logits", 2, "tokens", "classes")
LABELS = Head("logits", 2, "first", "labels")
VALUE = Head("logits", 1, "first", "value")
SPAN = Head("logits", 2, "tokens", "span")
STARTS = np.array([0, 2, 5])
RAW = arrays(np.float32, (3, 5, 2), elements=st.floats(-20, 20, width=32))


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_the_mean_of_distributions_by_hand() -> None:
    # 80 % and 40 % for the first class: 60 %.
    a, b = (np.log(np.array([[p, 1 - p]], dtype="f4")) for p in (0.8, 0.4))
    np.testing.assert_allclose(averaged(CLASSES, [a, b], "average", STARTS), np.log([[0.6, 0.4]]), rtol=1e-5)
    # Of labels each by itself: 80 % and 40 %, 50 % and 10 %.
    a, b = np.array([[logit(0.8), 0]], dtype="f4"), np.array([[logit(0.4), logit(0.1)]], dtype="f4")
    found = averaged(LABELS, [a, b], "average", STARTS)
    np.testing.assert_allclose(found, [[logit(0.6), logit(0.3)]], rtol=1e-5)
    found = averaged(VALUE, [np.array([[1.0]], dtype="f4"), np.array([[4.0]], dtype="f4")], "average", STARTS)
    assert found.tolist() == [[2.5]]


def test_who_is_sure_weighs_more() -> None:
    # Entropy 0 against log 2: weights 1 and exp(-log 2), which is 2/3 and 1/3.
    sure, unsure = np.array([[40.0, 0]], dtype="f4"), np.zeros((1, 2), dtype="f4")
    found = averaged(CLASSES, [sure, unsure], "weighted", STARTS)
    p = np.exp(found) / np.exp(found).sum()
    np.testing.assert_allclose(p, [[2 / 3 + 1 / 6, 1 / 6]], rtol=1e-5)
    # Two labels, both unknown to the second teacher: its entropy is 2 log 2.
    found = averaged(LABELS, [np.full((1, 2), 40, "f4"), np.zeros((1, 2), "f4")], "weighted", STARTS)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), np.full((1, 2), 0.8 + 0.1), rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_shares(np.array([[0.0], [1.0]], "f4"), "average")), 0.5)


@given(raw=RAW, how=st.sampled_from(["average", "weighted"]))
def test_classes_and_tags_as_in_float64(raw: np.ndarray, how: str) -> None:
    p = torch.softmax(torch.from_numpy(raw).double(), -1)
    shares = torch.softmax(torch.special.entr(p).sum(-1).neg() if how == "weighted" else torch.zeros(3, 5), 0)
    wanted = (p * shares[..., None]).sum(0)
    for head in (CLASSES, TAGS):
        found = averaged(head, list(raw), how, STARTS)
        np.testing.assert_allclose(torch.softmax(torch.from_numpy(found).double(), -1), wanted, atol=1e-5)


@given(raw=RAW, how=st.sampled_from(["average", "weighted"]))
def test_spans_are_averaged_over_the_tokens_of_a_row(raw: np.ndarray, how: str) -> None:
    found = torch.from_numpy(averaged(SPAN, list(raw), how, STARTS)).double()
    for start, end in ((0, 2), (2, 5)):
        p = torch.softmax(torch.from_numpy(raw[:, start:end]).double(), 1)
        sure = torch.special.entr(p).sum((1, 2)).neg()
        shares = torch.softmax(sure, 0) if how == "weighted" else torch.full((3,), 1 / 3)
        wanted = (p * shares[:, None, None]).sum(0)
        np.testing.assert_allclose(torch.softmax(found[start:end], 0), wanted, atol=1e-5)


@given(raw=RAW, how=st.sampled_from(["average", "weighted"]))
def test_equal_teachers_are_one_teacher(raw: np.ndarray, how: str) -> None:
    for head in (CLASSES, TAGS, LABELS, SPAN):
        np.testing.assert_allclose(averaged(head, [raw[0]] * 3, how, STARTS), raw[0], atol=2e-5)


def test_blocks_change_nothing() -> None:
    raw = np.random.default_rng(0).standard_normal((2, BLOCK + 3, 2)).astype("f4")
    found = averaged(CLASSES, list(raw), "weighted", STARTS)
    np.testing.assert_array_equal(found[-5:], averaged(CLASSES, list(raw[:, -5:]), "weighted", STARTS))


def targets(value: float) -> Targets:
    encoded = Encoded([[1, 2]], [False])
    heads = {name: np.array([[value]], dtype="f4") for name in ("logits", "a", "b")}
    return Targets(encoded, np.array([0, 2]), heads, {"hidden1": np.ones((2, 3), "f2")}, 4)


@pytest.mark.parametrize("head", ["logits", "a"])
def test_numbers_are_averaged_in_their_own_unit(head: str) -> None:
    def task(mean: float, scale: float) -> Regression | MultiTask:
        one = Regression(mean=mean, scale=scale)
        return one if head == "logits" else MultiTask((("a", one), ("b", Regression())))

    # 2 and, in another unit, 10 + 4 * 3 = 22: on average 12, which is 12 = 0 + 1 * 12 in the first teacher's unit.
    ensemble = Ensemble((Member(Path("other"), "", task(10, 4)),))
    found = combined(targets(2), [targets(3)], task(0, 1), ensemble)
    assert found.heads[head].tolist() == [[12.0]]
    assert set(found.heads) == ({"logits"} if head == "logits" else {"a", "b"})
    assert found.depth == 4 and found.states["hidden1"].shape == (2, 3)
    first = targets(2)
    assert combined(first, [], task(0, 1), Ensemble()) is first
