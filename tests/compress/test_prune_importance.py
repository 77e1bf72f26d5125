"""How much a unit matters, by each measure, against other ways to compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attar.compress.prune.importance import comparable, find_importance, gates, known
from attar.compress.prune.importance.fisher import surprise
from attar.compress.prune.shrink import choose
from attar.compress.prune.units import Part, multiplied, sizes
from attar.distill.batches import Batch
from attar.distill.step import find
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Head
from tests.compress.pruning import TEXTS, context, silenced
from tests.models import make_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("prune") / "bert", layers=3)


def test_every_measure_is_a_file() -> None:
    assert known() == ["fisher", "gates", "magnitude", "taylor"]
    with pytest.raises(SettingsError, match=r"importance 'nothing' is unknown; known: fisher, gates"):
        find_importance("nothing")
    with pytest.raises(SettingsError, match="importance 'nothing' is unknown"):
        find("compress.prune.heads").Settings(importance="nothing")


@pytest.mark.parametrize("use", ["taylor", "fisher", "magnitude"])
def test_what_nothing_reads_has_no_importance(use: str, student: Student) -> None:
    silent, measure = silenced(student), find_importance(use).measure
    heads, ffn = (measure(silent, part, 16, 0.5, context()) for part in ("heads", "ffn"))
    assert [len(i) for i in heads] == [4] * 3 and [len(i) for i in ffn] == [64] * 3
    assert heads[1][1] == 0 and ffn[0][5] == 0
    assert heads[1][[0, 2, 3]].min() > 0 and heads[0].min() > 0
    (dimensions,) = measure(silent, "width", 16, 0.5, context())
    assert dimensions.shape == (32,) and dimensions.min() > 0


def test_taylor_is_the_gradient_by_a_multiplier(student: Student) -> None:
    """One batch: the difference quotient of the distance to the teacher, with a head a little larger or smaller."""
    where, texts = context(), 8
    found = find_importance("taylor").measure(student, "heads", texts, 0.5, where)
    taught, moved = where.supervision(student, ()), []
    batch = taught.batch(where.some_rows(taught, texts))
    for scale in (1.01, 0.99):
        values = [torch.ones(4), torch.tensor([1.0, 1.0, scale, 1.0]), torch.ones(4)]
        with torch.no_grad(), multiplied(student.transformer, "heads", values):
            moved.append(taught.soft_loss(student.encoder(*batch.inputs), batch).item() * texts)
    assert float(found[1][2]) == pytest.approx(abs(moved[0] - moved[1]) / 0.02, rel=0.02)


def test_magnitude_by_hand(student: Student) -> None:
    found = find_importance("magnitude").measure(student, "ffn", 4, 0.5, context())
    matrix, seen = student.transformer.layers[0].get_submodule("ffn_out"), []
    handle = matrix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    for text in context().some(4):
        student.logits([text])
    handle.remove()
    wanted = torch.cat(seen).abs().mean(0) * matrix.weight.detach().norm(dim=0)
    assert torch.allclose(found[0], wanted, rtol=1e-4)


def test_fisher_of_a_classifier_is_that_of_its_own_answers() -> None:
    """E (p - y)(p - y)^T over y ~ p is diag(p) - p p^T."""
    p = torch.tensor([0.2, 0.5, 0.3])
    batch = Batch([0], torch.ones(1, 1), torch.ones(1, 1), None)
    found = p.log().expand(20_000, 3)
    drawn = surprise(Head("logits", 3, "first", "classes"), found, batch, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.T @ drawn / len(drawn), torch.diag(p) - torch.outer(p, p), atol=0.01)


@pytest.mark.parametrize("objective", ["labels", "value", "span"])
def test_surprise_has_the_mean_of_a_score(objective: Any) -> None:
    """The expected gradient of a log-likelihood under its own distribution is 0; padding has none at all."""
    span = objective == "span"
    mask = torch.ones(4000, 3)
    mask[:, 2] = 0
    found = torch.tensor([[0.3, -1.0], [1.0, 0.5], [9.0, 9.0]]).expand(4000, 3, 2) if span else torch.zeros(4000, 2)
    batch = Batch(list(range(4000)), mask.long(), mask, None)
    head = Head("x", 2, "tokens" if span else "first", objective)
    drawn = surprise(head, found, batch, torch.Generator().manual_seed(0))
    assert drawn.mean(0).abs().max() < 0.06 and drawn.shape == found.shape
    assert not span or float(drawn[:, 2].abs().max()) == 0


def test_gates_close_what_does_not_help(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that the student equals: the head that nothing reads is among the first to go, at no cost."""
    monkeypatch.setattr(gates, "STEPS", 40)
    monkeypatch.setattr(gates, "BATCH", 8)
    silent = silenced(student)
    where = context(logits=silent.logits(TEXTS).numpy())
    found = gates.measure(silent, "heads", 48, 0.5, where)
    assert all(float(i.min()) >= 0 and float(i.max()) <= 1 for i in found)
    assert 4 + 1 in torch.cat(found).argsort()[:3].tolist()


def test_gate_opens_as_often_as_it_should() -> None:
    logit = torch.tensor([-1.0, 0.0, 2.0])
    drawn = gates.gate(logit.expand(100_000, 3), torch.Generator().manual_seed(0))
    assert torch.allclose((drawn > 0).float().mean(0), gates.open_probability(logit), atol=0.01)
    assert drawn.min() == 0 and drawn.max() == 1
    # From where all start, 1 / (1 + exp(-2 - 2/3 log 11)) = 0.9734, in half of the 100 steps.
    targets = [gates.target(step, 0.4) for step in (0, 25, 50, 99)]
    assert targets == pytest.approx([0.9734, 0.6867, 0.4, 0.4], abs=1e-4)


def test_layers_are_compared_fairly() -> None:
    small = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert [k.tolist() for k in choose(comparable([small, 1000 * small], "taylor"), 0.5, 1)] == [[2, 3], [2, 3]]
    assert [k.tolist() for k in choose(comparable([small, 1000 * small], "gates"), 0.5, 1)] == [[3], [0, 1, 2, 3]]


@pytest.mark.parametrize("part", ["heads", "ffn", "width"])
def test_multipliers_of_one_change_nothing_and_leave_nothing(part: Part, student: Student) -> None:
    exact = student.logits(TEXTS)
    with multiplied(student.transformer, part, [torch.ones(n) for n in sizes(student.transformer, part)]):
        assert torch.equal(student.logits(TEXTS), exact)
    with multiplied(student.transformer, part, [torch.full((n,), 0.5) for n in sizes(student.transformer, part)]):
        assert (student.logits(TEXTS) - exact).abs().max() > 1e-3
    assert torch.equal(student.logits(TEXTS), exact)
