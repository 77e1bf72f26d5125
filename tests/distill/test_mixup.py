"""Mixup: by hand, through the student's own layers, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.distill import distil
from attar.distill.methods.mixup import mixing, mixture
from attar.distill.objectives import soft
from attar.distill.resume import Checkpoints
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students import static
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Head
from tests.distill.classroom import built, context, taught
from tests.distill.test_resume import KilledError, killer
from tests.models import corpus, make_checkpoint, make_student

ROWS = [0, 3, 5, 8]
PARTNER = torch.tensor([2, 0, 1, 3])
SHARE = torch.tensor([0.25, 1.0, 0.6, 0.5])


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("mixup")
    train = corpus("text-classification", 24, seed=3)
    return context(make_checkpoint(folder / "teacher", layers=2), folder / "targets", train)


@pytest.fixture(scope="module")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("pupil") / "m", layers=2, seed=7)


def test_mixtures_by_hand() -> None:
    # exp(log 4 / 2) = 2, so at temperature 2 the classes have 2/3 and 1/3, and 1/5 and 4/5.
    own, other = torch.tensor([[math.log(4), 0.0]]), torch.tensor([[0.0, math.log(16)]])
    share = torch.tensor([[0.25]])
    found = torch.softmax(mixture("classes", own, other, share, 2.0) / 2, -1)
    assert torch.allclose(found, torch.tensor([[0.25 * 2 / 3 + 0.75 / 5, 0.25 / 3 + 0.75 * 4 / 5]]))
    # Each label by itself: 2/3 and 1/2 of being there, 1/2 and 4/5.
    found = torch.sigmoid(mixture("labels", own, other, share, 2.0) / 2)
    assert torch.allclose(found, torch.tensor([[0.25 * 2 / 3 + 0.75 / 2, 0.25 / 2 + 0.75 * 4 / 5]]))
    for objective in ("value", "vector"):
        found = mixture(objective, torch.tensor([[4.0]]), torch.tensor([[8.0]]), share, 2.0)
        assert torch.equal(found, torch.tensor([[7.0]]))


OUTPUTS = st.lists(st.floats(-300, 300), min_size=3, max_size=3)


@given(own=OUTPUTS, other=OUTPUTS, share=st.floats(0, 1, width=32), objective=st.sampled_from(["classes", "labels"]))
def test_a_mixture_is_a_distribution_whatever_is_mixed(
    own: list[float], other: list[float], share: float, objective: str
) -> None:
    a, b = torch.tensor([own]), torch.tensor([other])
    wanted = mixture(objective, a, b, torch.tensor([[share]]), 1.0)
    head = Head("label", 3, "first", objective)  # type: ignore[arg-type]  # one of two
    assert torch.isfinite(soft(head, torch.zeros(1, 3), wanted, torch.ones(1, 1), 1.0))
    if share in (0.0, 1.0):
        only = a if share else b
        assert soft(head, only, wanted, torch.ones(1, 1), 1.0).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("reads", ["first", "mean"])
def test_states_are_mixed_behind_the_layer(layer: int, reads: str, where: Context, pupil: Student) -> None:
    """Against the same sums written out, with the layers called one by one."""
    network: Any = pupil.copy().encoder.eval()
    network.shape = replace(network.shape, heads=tuple(replace(h, reads=reads) for h in network.shape.heads))
    network.heads["logits"].shape = network.shape.heads[0]
    batch = where.supervision(pupil, ()).batch(ROWS)
    assert len(set(batch.mask.sum(1).tolist())) > 1  # of several lengths
    x = network.embedding_norm(
        network.words(batch.ids) + network.positions.weight[: batch.ids.shape[1]] + network.types.weight[0]
    )
    mask = batch.mask
    for place, each in enumerate(network.layers):
        if place == layer:
            x = x * mask[:, :, None]
            x = SHARE[:, None, None] * x + (1 - SHARE[:, None, None]) * x[PARTNER]
            mask = torch.maximum(mask, mask[PARTNER])
        x = each(x, (1.0 - mask[:, None, None, :]) * -1e4)
    expected = network.heads["logits"](x, mask)
    before = network(*batch.inputs).heads["logits"]
    with mixing(network, layer, PARTNER, SHARE):
        found = network(*batch.inputs).heads["logits"]
    assert torch.allclose(found, expected, atol=1e-5) and not torch.allclose(found, before, atol=1e-3)
    assert torch.equal(network(*batch.inputs).heads["logits"], before)  # nothing is left behind
    with mixing(network, layer, torch.arange(4), SHARE):
        assert torch.allclose(network(*batch.inputs).heads["logits"], before, atol=1e-5)


def test_the_loss_by_hand(where: Context, pupil: Student) -> None:
    options = {"use": "mixup", "temperature": 2.0}
    by = taught(options, pupil, where)
    method: Any = built(options, pupil, by, where)
    batch = by.batch(ROWS)
    with torch.no_grad():
        found = method.loss(batch, PARTNER, SHARE)
        with mixing(pupil.transformer, 0, PARTNER, SHARE):
            mine = torch.softmax(pupil.encoder(*batch.inputs).heads["logits"] / 2, -1)
    teacher = torch.softmax(torch.from_numpy(by.targets.heads["logits"][ROWS]) / 2, -1)
    wanted = SHARE[:, None] * teacher + (1 - SHARE[:, None]) * teacher[PARTNER]
    assert found.item() == pytest.approx((4 * (wanted * (wanted / mine).log()).sum(-1)).mean().item(), rel=1e-4)


def test_it_goes_on_where_it_was_killed(where: Context, pupil: Student, tmp_path: Path) -> None:
    methods = ({"use": "soft_targets"}, {"use": "mixup", "layer": 1, "alpha": 0.2})
    settings = distil.Settings(methods=methods, epochs=1, batch_size=8, learning_rate=1e-3)
    whole = distil.apply(pupil, settings, where).digest()
    kept = replace(where, checkpoints=Checkpoints(tmp_path, every=0))
    with pytest.raises(KilledError):
        distil.apply(pupil, settings, replace(kept, progress=killer("step 1/3")))
    assert distil.apply(pupil, settings, kept).digest() == whole
    assert distil.apply(pupil, replace(settings, seed=1), where).digest() != whole


def test_what_cannot_be_mixed_is_refused(where: Context, pupil: Student, tmp_path: Path) -> None:
    def refused(student: Student, by: Context, words: str, **options: Any) -> None:
        with pytest.raises(SettingsError, match=words):
            distil.apply(student, distil.Settings(methods=({"use": "mixup", **options},)), by)

    refused(pupil, where, "layer 2 has no layer above it: the student has 2", layer=2)
    refused(pupil, where, "layer -1 has no layer above it", layer=-1)
    refused(pupil, where, r"above 0, not 0 and 2\.0", alpha=0)
    bag = static.apply(Student.load(where.teacher), static.Settings(width=8, hidden=8), where)
    refused(bag, where, "a static student has no states to mix; drop method mixup")
    for kind in ("token-classification", "question-answering"):
        tagger = make_student(tmp_path / kind, kind=kind, layers=1)
        refused(tagger, where, f"mixes whole texts, and {kind} answers for tokens; drop method mixup")
