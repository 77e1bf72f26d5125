"""Zeros in matrices: which weights go, how the others make up for them, and that a distillation leaves them at zero."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.compress.prune import sparse
from attar.compress.quantize import aware
from attar.compress.statistics import matrices, moments
from attar.distill import distil
from attar.distill.student import Student
from attar.export.onnx import to_onnx
from attar.pipeline.progress import Console
from attar.pipeline.recipe import StepSpec
from attar.pipeline.stages import Stages
from attar.pipeline.steps import Material, Runner
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.compress.pruning import TEXTS, context
from tests.compress.samples import correlated, moment
from tests.models import make_checkpoint, sentences

USE = "compress.prune.sparse"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("sparse") / "bert", layers=2)


@pytest.fixture(scope="module")
def student(teacher: Path) -> Student:
    return Student.load(teacher)


def thinned(student: Student, **settings: Any) -> Student:
    return sparse.apply(student, sparse.Settings(**settings), context())


def zero_places(student: Student) -> dict[str, torch.Tensor]:
    return {name: matrix.weight.detach() == 0 for name, matrix in matrices(student.transformer).items()}


WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [0.5, 6.0, -0.1, 7.0]])


def test_magnitude_by_hand() -> None:
    """Of all eight the three smallest, 0.1, 0.5 and 1; in every two neighbours the smaller."""
    assert sparse.magnitude(WEIGHT, 3 / 8, 0).tolist() == [[0, -2, 3, -4], [0, 6, 0, 7]]
    assert sparse.magnitude(WEIGHT, 0.5, 2).tolist() == [[0, -2, 0, -4], [0, 6, 0, 7]]


def test_wanda_by_hand() -> None:
    """Inputs of norm 4, 1, 1 and 0.1 make it 4, 2, 3, 0.4 and 2, 6, 0.1, 0.7: two of each row go."""
    second = torch.diag(torch.tensor([16.0, 1.0, 1.0, 0.01], dtype=torch.float64))
    assert sparse.wanda(WEIGHT, second, 0.5, 0).tolist() == [[1, 0, 3, 0], [0.5, 6, 0, 0]]
    assert sparse.wanda(WEIGHT, second, 0.5, 2).tolist() == [[1, 0, 3, 0], [0, 6, 0, 7]]


def damped(second: torch.Tensor) -> torch.Tensor:
    return second + 0.01 * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)


def test_one_lost_weight_is_made_up_for_as_the_optimal_brain_surgeon_does() -> None:
    """w - w_q / [H^-1]_qq H^-1 e_q (Hassibi 1993, equation 5), for the first weight: all others stand behind it."""
    second = moment(correlated(200, 8))
    weight = torch.tensor([[0.01, *range(1, 8)]], dtype=torch.float64)
    inverse = torch.linalg.inv(damped(second))
    expected = weight[0] - weight[0, 0] / inverse[0, 0] * inverse[:, 0]
    found = sparse.sparsegpt(weight, second, 1 / 8, 0)[0]
    assert found[0] == 0
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(("group", "block"), [(0, 3), (0, 128), (4, 128)])
def test_the_sweep_is_that_of_an_inverse_for_every_place(group: int, block: int) -> None:
    """Without Cholesky factors: at each input the inverse of what the inputs from here on have, computed anew."""
    second = moment(correlated(200, 12, seed=3))
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, width = weight.clone(), group or block
    for q in range(12):
        if q % width == 0:
            last = min(q + width, 12)
            costs = [torch.linalg.inv(damped(second)[j:, j:])[0, 0] for j in range(q, last)]
            scores = expected[:, q:last] ** 2 / torch.stack(costs)
            rows = scores if group else scores.flatten()[None]
            order = rows.sort(1).values[:, round(0.5 * rows.shape[1]) - 1]
            gone = (rows <= order[:, None]).view_as(scores)
        inverse = torch.linalg.inv(damped(second)[q:, q:])
        lost = torch.where(gone[:, q % width], expected[:, q], 0.0)
        expected[:, q:] -= torch.outer(lost / inverse[0, 0], inverse[0])
    found = sparse.sparsegpt(weight, second, 0.5, group, block)
    assert torch.equal(found == 0, expected.abs() < 1e-9)
    assert torch.allclose(found, expected, atol=1e-8)


problems = st.tuples(
    st.integers(0, 10_000), st.sampled_from([8, 16, 40]), st.integers(1, 12), st.sampled_from([1, 2, 3]),
    st.booleans(),
)  # fmt: skip


@given(problems)
def test_groups_have_their_zeros_and_outputs_move_less_than_by_magnitude(
    problem: tuple[int, int, int, int, bool],
) -> None:
    seed, inputs, outputs, stay, grouped = problem
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, generator=generator)
    x, share, group = correlated(3 * inputs, inputs, seed), 1 - stay / 4, 4 * grouped
    found = sparse.sparse(weight, moment(x), share, group)
    plain = sparse.magnitude(weight, share, group)
    for new in (found, plain, sparse.wanda(weight, moment(x), share, group)):
        if grouped:
            assert ((new == 0).view(outputs, -1, 4).sum(-1) == 4 - stay).all()
        else:
            assert int((new == 0).sum()) == round(share * weight.numel())
    moved, reference = ((x @ (new - weight).double().T).square().sum() for new in (found, plain))
    assert moved <= reference * (1 + 1e-6)
    loss = sparse.loss(found - weight, moment(x))
    assert loss == pytest.approx(float(moved) / len(x), rel=1e-6)


@pytest.mark.parametrize("importance", sparse.IMPORTANCE)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_half_of_every_matrix_is_zero_and_the_record_says_so(importance: str, pattern: str, student: Student) -> None:
    found = thinned(student, importance=importance, pattern=pattern)
    for name, gone in zero_places(found).items():
        assert gone.float().mean() == pytest.approx(0.5, abs=0.01), name
        assert pattern != "2:4" or (gone.view(len(gone), -1, 4).sum(-1) == 2).all(), name
    facts = found.lineage[-1]
    assert facts["zeros"] == sum(int(gone.sum()) for gone in zero_places(found).values())
    assert facts["weights"] == sum(gone.numel() for gone in zero_places(found).values())
    assert "no engine" in facts["note"]
    assert len(to_onnx(found)) == len(to_onnx(student)), "zeros are numbers like others"


def test_a_layer_is_fitted_to_what_the_sparse_ones_before_it_give(student: Student) -> None:
    found = thinned(student, importance="wanda", sparsity=0.75, texts=len(TEXTS))
    name = "layers.1.ffn_in"
    before = student.copy()
    before.transformer.layers[0].load_state_dict(found.transformer.layers[0].state_dict())
    seen = moments(before, TEXTS, {name: before.transformer.get_submodule(name)})
    weight = matrices(student.transformer)[name].weight.detach()
    expected = sparse.wanda(weight, seen[name].second, 0.75, 0)
    assert torch.equal(matrices(found.transformer)[name].weight, expected)


def test_what_no_text_uses_costs_nothing(student: Student) -> None:
    """Dead inputs, which make the moment singular: their weights are the first to go."""
    dead = student.copy()
    with torch.no_grad():
        for part in (dead.transformer.layers[0].ffn_in.weight, dead.transformer.layers[0].ffn_in.bias):
            part[:16] = 0
    found = thinned(dead, sparsity=0.25)
    assert (found.transformer.layers[0].ffn_out.weight[:, :16] == 0).all()
    assert torch.isfinite(found.logits(TEXTS)).all()


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"sparsity": 0.0}, "sparsity must be above 0 and below 1"),
        ({"sparsity": 1.0}, "sparsity must be above 0 and below 1"),
        ({"importance": "taylor"}, "importance must be one of magnitude, wanda, sparsegpt, not 'taylor'"),
        ({"pattern": "4:4"}, "pattern must be unstructured or like"),
        ({"pattern": "half"}, "not 'half'"),
        ({"pattern": "1:4"}, r"pattern 1:4 needs sparsity = 0\.75, not 0\.5"),
    ],
)
def test_settings_that_mean_nothing(given_: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        sparse.Settings(**given_)


def test_groups_that_do_not_fit_are_refused_by_name(student: Student) -> None:
    with pytest.raises(SettingsError, match=r'layers\.0\.query reads 32 inputs, no multiple of 3; .*"unstructured"'):
        thinned(student, pattern="1:3", sparsity=2 / 3)


# --- behind it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [False, True])
def test_training_leaves_the_zeros_and_moves_the_rest(rounded: bool, student: Student, teacher: Path) -> None:
    thin = thinned(student)
    step: Any = aware if rounded else distil
    learnt = step.apply(thin, step.Settings(epochs=2, learning_rate=1e-2), context(teacher=teacher))
    before, after = zero_places(thin), zero_places(learnt)
    for name, gone in before.items():
        assert after[name][gone].all(), name
        assert not after[name][~gone].any(), name
    old, new = (matrices(s.transformer)["layers.0.query"].weight for s in (thin, learnt))
    assert (old - new).abs().max() > 1e-3
    assert (learnt.transformer.layers[0].query.weight.grad is None) and not new._backward_hooks


def test_the_zeros_of_other_students_learn(student: Student, teacher: Path) -> None:
    """A zero that no step declared, of an untrained part for example, is a weight like any other."""
    plain = replace(thinned(student), lineage=())
    learnt = distil.apply(plain, distil.Settings(epochs=2, learning_rate=1e-2), context(teacher=teacher))
    assert not any(gone.any() for gone in zero_places(learnt).values())


@pytest.mark.parametrize("must_pay", [False, True])
def test_a_run_never_calls_it_fast(must_pay: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.pipeline.steps.speedup", None)  # it is not even timed
    folder, data = make_checkpoint(tmp_path / "teacher", layers=1), sentences(30)
    start = Student.load(folder)
    material = Material(start.task, data, Examples((), None, "nothing"), data, folder)
    runner = Runner(material, Stages(tmp_path / "stages"), Console(quiet=True), quantizes=False)
    spec = StepSpec(USE, sparse.Settings(importance="magnitude"), must_pay=must_pay)
    load, _, (record,) = runner.run(lambda: start, "start", [spec], 32)
    assert record["kept"] != must_pay and record["speedup"] is None
    wanted = "It does not pay: no engine of attar is faster" if must_pay else "No engine of attar is faster"
    assert record["reason"].startswith(wanted)
    assert any(gone.any() for gone in zero_places(load()).values()) != must_pay
