"""The mathematics of factorization, against the plain SVD and the best that any factors can do, and its budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compress.factorize import activation_aware, fisher, lowrank, svd
from attar.compress.factorize.lowrank import Apart, share_out
from attar.distill.student import Student
from attar.distill.supervision import Supervision, supervise
from attar.distill.teacher import Teacher
from attar.runtime.bench.paired import Ratio
from attar.runtime.errors import ModelError, SettingsError
from attar.runtime.tasks.base import Head
from tests.compress.samples import correlated, moment
from tests.models import KINDS, corpus, make_checkpoint, make_student, quiet


def weighted(weight: torch.Tensor, found: torch.Tensor, m: torch.Tensor) -> float:
    """E|W x - V x|^2 from the second moment of x."""
    gap = (weight - found).double()
    return float((gap @ m @ gap.T).trace())


def random(rows: int, columns: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("outputs", "inputs"), [(10, 16), (16, 10)])
def test_activation_aware_beats_the_plain_svd(outputs: int, inputs: int) -> None:
    x = correlated(300, inputs)
    m, weight = moment(x), random(outputs, inputs)
    singular = torch.linalg.svdvals(weight.double() @ torch.linalg.cholesky(m))
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    apart = activation_aware.apart(weight, m)
    for rank in (1, 3, 6, 9):
        up, down = apart.cut(rank)
        assert up.shape == (outputs, rank) and down.shape == (rank, inputs)
        error = weighted(weight, up @ down, m)
        assert error < 0.999 * weighted(weight, (u[:, :rank] * s[:rank]) @ v[:rank], m)
        # Eckart and Young: no product of this rank does better.
        assert error == pytest.approx(float(singular[rank:].square().sum()), rel=1e-3)
        # What the budget believes to lose is the share of the output that is lost.
        assert float(apart.worth[rank:].sum()) == pytest.approx(error / weighted(weight, 0 * weight, m), rel=1e-3)
    up, down = apart.cut(min(outputs, inputs))
    assert (up @ down - weight).abs().max() < 1e-4


def test_plain_svd_is_that_of_the_library() -> None:
    weight = random(12, 9)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    apart = svd.apart(weight)
    for rank in (1, 4, 9):
        up, down = apart.cut(rank)
        assert torch.allclose(up @ down, (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-5)
    assert torch.allclose(apart.worth.float(), s.square() / s.square().sum(), atol=1e-6)


def test_fisher_keeps_the_inputs_that_matter() -> None:
    """Of diag(3, 2, 1) the plain SVD keeps the 3; where the gradients of input 2 are large, its 1 is worth more:
    1 * sqrt(100) against 3 * sqrt(1) and 2 * sqrt(1), so worth 100, 9, 4."""
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    information = torch.tensor([[0.5, 1.0, 40.0], [0.5, 0.0, 60.0], [0.0, 0.0, 0.0]])
    apart = fisher.apart(weight, information)
    assert apart.worth.tolist() == pytest.approx([100, 9, 4])
    up, down = apart.cut(1)
    assert torch.allclose(up @ down, torch.diag(torch.tensor([0.0, 0.0, 1.0])), atol=1e-6)
    up, down = svd.apart(weight).cut(1)
    assert torch.allclose(up @ down, torch.diag(torch.tensor([3.0, 0.0, 0.0])), atol=1e-6)


def test_fisher_without_any_gradient_is_the_plain_svd() -> None:
    weight = random(6, 8)
    up, down = fisher.apart(weight, torch.zeros(6, 8)).cut(3)
    other, below = svd.apart(weight).cut(3)
    assert torch.allclose(up @ down, other @ below, atol=1e-5)


def test_factors_with_inputs_that_never_vary() -> None:
    """Fewer samples than inputs, and one channel far larger than the rest, as transformers have them."""
    x = random(60, 256, seed=3)
    x[:, 4] += 300
    weight = random(16, 256, seed=4)
    m = moment(x).double()
    up, down = activation_aware.apart(weight, m).cut(8)
    assert torch.isfinite(up).all() and torch.isfinite(down).all()
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    assert weighted(weight, up @ down, m) < 0.5 * weighted(weight, (u[:, :8] * s[:8]) @ v[:8], m)


def test_factors_of_an_input_that_is_zero() -> None:
    for apart in (
        activation_aware.apart(torch.ones(4, 4), torch.zeros(4, 4, dtype=torch.float64)),
        fisher.apart(torch.ones(4, 4), torch.tensor([[1.0, 0, 0, 0]] * 4)),
        svd.apart(torch.zeros(4, 4)),
    ):
        assert all(torch.isfinite(part).all() for part in (*apart.cut(2), apart.worth))


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_a_rank_above_full_is_refused(rank: int) -> None:
    with pytest.raises(SettingsError, match=f"rank must be from 1 to the full 4, not {rank}"):
        svd.apart(random(4, 7)).cut(rank)


# --- the budget ---------------------------------------------------------------------------------------------------


def spectrum(m: int, n: int, worth: list[float]) -> Apart:
    """A matrix of which only sizes and worth count."""
    k = min(m, n)
    full = torch.tensor(worth + [0.0] * (k - len(worth)), dtype=torch.float64)
    return Apart(torch.zeros(m, k), torch.zeros(k, n), full)


def falling(rate: float, size: int = 32) -> Apart:
    """A square matrix whose terms are worth less and less, in all 1."""
    worth = torch.tensor([rate**i for i in range(size)])
    return spectrum(size, size, (worth / worth.sum()).tolist())


def stays(apart: dict[str, Apart], ranks: dict[str, int]) -> int:
    return sum(a.entries(ranks.get(name)) for name, a in apart.items())


def test_ranks_go_where_they_are_worth_most() -> None:
    """Two 32 x 32 matrices: whole 1024 entries, rank 8 has 512. Half of both is 1024, so both have to go to 8; with
    three quarters one is enough, and it is the one whose terms behind the eighth are worth least."""
    apart = {"steep": falling(0.7), "flat": falling(0.99)}
    assert share_out(apart, 0.75) == {"steep": 8}
    assert share_out(apart, 0.5) == {"steep": 8, "flat": 8}
    assert share_out(apart, 0.99) == {"steep": 8}
    with pytest.raises(SettingsError, match=r"budget 0\.4 cannot be met: with rank 8 everywhere 0\.5 stays"):
        share_out(apart, 0.4)


def test_what_is_too_small_to_gain_stays_whole() -> None:
    assert spectrum(16, 16, []).ranks == []  # at rank 8 it would have as many entries as before
    assert spectrum(16, 17, []).ranks == [8]
    assert spectrum(64, 64, []).ranks == [8, 16, 24]
    assert share_out({"small": spectrum(16, 16, [1.0])}, 0.1) == {}
    assert share_out({"small": spectrum(16, 16, [1.0]), "large": falling(0.9, 64)}, 0.5) == {"large": 16}


sizes = st.tuples(st.sampled_from([16, 24, 32, 40]), st.sampled_from([16, 32, 48]))
matrix = st.tuples(sizes, st.floats(0.5, 1.0), st.floats(0.01, 10))


@settings(max_examples=30)
@given(st.lists(matrix, min_size=1, max_size=3), st.floats(0.3, 0.99))
def test_the_budget_is_kept_and_well_spent(given_: list[Any], budget: float) -> None:
    apart = {
        f"layers.{i}.query": spectrum(m, n, [size * rate**j for j in range(min(m, n))])
        for i, ((m, n), rate, size) in enumerate(given_)
    }
    able = {name: a for name, a in apart.items() if a.ranks}
    if stays(able, dict.fromkeys(able, 8)) > int(budget * stays(able, {})):
        with pytest.raises(SettingsError, match="cannot be met"):
            share_out(apart, budget)
        return
    ranks = share_out(apart, budget)
    assert all(r % 8 == 0 and r in able[name].ranks for name, r in ranks.items())
    assert stays(able, ranks) <= budget * stays(able, {})

    def lost(chosen: dict[str, int]) -> float:
        return sum(float(apart[name].worth[r:].sum()) for name, r in chosen.items())

    # Against every choice there is: what has fewer entries by a whole step of each matrix does not lose less.
    every = [
        {name: r for name, r in zip(able, choice, strict=True) if r is not None}
        for choice in itertools.product(*([None, *a.ranks] for a in able.values()))
    ]
    steps = sum(max(a.entries(None) - a.entries(a.ranks[-1]), a.entries(8)) for a in able.values())
    room = [lost(c) for c in every if stays(able, c) <= budget * stays(able, {}) - steps]
    assert lost(ranks) <= min(room, default=float("inf")) + 1e-9


@pytest.mark.parametrize("budget", [0, 1, -0.5, 2])
@pytest.mark.parametrize("module", [svd, activation_aware, fisher])
def test_budget_is_a_fraction(module: Any, budget: float) -> None:
    with pytest.raises(SettingsError, match="budget is a fraction"):
        module.Settings(budget=budget)


def test_unknown_matrix_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown matrix 'ffn'; known: query"):
        activation_aware.Settings(matrices=("ffn",))


# --- students -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("factorize") / "bert")


def context(speedup: Callable[[Student, Student], Ratio]) -> Any:
    train = corpus("text-classification", 20)
    return SimpleNamespace(train=train, some=lambda count: train.texts[:count], speedup=speedup)


def slower_ffn(before: Student, after: Student) -> Ratio:
    """A machine on which only attention gains by factors."""
    gains = "query" in after.transformer.shape.layers[0].ranks
    return Ratio(1.2, 1.1, 1.3, 5) if gains else Ratio(1.02, 0.98, 1.1, 5)


def test_only_what_pays_on_the_engine_is_kept(student: Student) -> None:
    wanted = svd.Settings(matrices=("query", "ffn_in"), budget=0.42)
    found = svd.apply(student, wanted, context(slower_ffn))
    layers = found.transformer.shape.layers
    assert [sorted(shape.ranks) for shape in layers] == [["query"]] * 2
    assert found.lineage[-1]["measured_speedup"] == {"query": 1.2, "ffn_in": 1.02}
    assert found.lineage[-1]["ranks"] == {"layers.0.query": 8, "layers.1.query": 8}


def test_what_is_factorized_already_is_left_alone(student: Student) -> None:
    always = context(lambda a, b: Ratio(2, 2, 2, 5))
    once = svd.apply(student, svd.Settings(), always)
    again = activation_aware.apply(once, activation_aware.Settings(), always)
    assert again.encoder is once.encoder and again.lineage[-1]["ranks"] == {}


def test_weights_that_are_not_numbers_are_named(student: Student) -> None:
    broken = student.copy()
    broken.transformer.layers[1].ffn_out.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"layers\.1\.ffn_out\.weight holds 1 of"):
        lowrank.dense(broken, ("ffn_in", "ffn_out"))


def taught_by(folder: Path, student: Student, kind: str) -> Supervision:
    texts = corpus(kind, 6).texts
    targets = Teacher(folder, student.task).targets(texts, (), folder.with_name("targets"), quiet)
    return supervise(student, student.tokenizer, targets, texts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_information_is_found_where_student_and_teacher_agree(kind: str, tmp_path: Path) -> None:
    """At the teacher itself the distance has no gradient, but its Fisher information is there, for every kind."""
    student = make_student(tmp_path / "m", kind=kind)
    taught, names = taught_by(tmp_path / "m", student, kind), ["layers.0.query", "layers.1.ffn_in"]
    found = fisher.information(taught, names, range(6), seed=0)
    for name in names:
        assert found[name].shape == student.encoder.get_submodule(name).weight.shape
        assert float(found[name].mean()) > 1e-9 and bool(found[name].isfinite().all())
    again = fisher.information(taught, names, range(6), seed=0)
    assert all(torch.equal(found[name], again[name]) for name in names)
    assert all(p.grad is None for p in student.encoder.parameters())


def test_the_information_is_the_expected_squared_gradient(tmp_path: Path) -> None:
    """One text, two classes: sum over classes of p(c) times the squared gradient of -log p(c)."""
    make_checkpoint(tmp_path / "m", layers=1)
    student = Student.load(tmp_path / "m")
    taught, name = taught_by(tmp_path / "m", student, "text-classification"), "layers.0.ffn_in"
    weight = student.transformer.layers[0].ffn_in.weight
    logits = student.encoder(*taught.batch([0]).inputs).heads["logits"]
    expected = torch.zeros_like(weight)
    for c in range(2):
        surprise = -torch.log_softmax(logits, -1)[0, c]
        (gradient,) = torch.autograd.grad(surprise, weight, retain_graph=True)
        expected += float((-surprise).exp().detach()) * gradient.square()
    draws = torch.stack([fisher.information(taught, [name], [0], seed)[name] for seed in range(150)]).mean(0)
    assert float(draws.sum()) == pytest.approx(float(expected.sum()), rel=0.25)


def test_drawn_answers_have_the_teachers_frequencies() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = torch.tensor([0.2, 0.5, 0.3])
    said, mask = chances.log().expand(4000, 3), torch.ones(4000, 5)
    classes = fisher.drawn(Head("a", 3, "first", "classes"), said, mask, generator)
    assert (classes.softmax(-1).mean(0) - chances).abs().max() < 0.03
    labels = fisher.drawn(Head("a", 3, "first", "labels"), torch.logit(chances).expand(4000, 3), mask, generator)
    assert (labels.sigmoid().mean(0) - chances).abs().max() < 0.03
    mask[:, 3:] = 0
    tokens = torch.tensor([0.2, 0.5, 0.3, 9, 9]).log()[None, :, None].expand(4000, 5, 2)
    spans = fisher.drawn(Head("a", 2, "tokens", "span"), tokens, mask, generator)
    assert (spans[:, :3].softmax(1).mean(0) - chances[:, None]).abs().max() < 0.03
    assert (spans[:, 3:] == 0).all()  # no answer begins in the padding
    value = fisher.drawn(Head("a", 1, "first", "value"), torch.full((4000, 1), 7.0), mask, generator)
    assert float(value.mean()) == pytest.approx(7, abs=0.1) and float(value.std()) == pytest.approx(1, abs=0.1)
