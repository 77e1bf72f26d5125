"""How methods are combined: their weights over time, the layers they match, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attar.distill import distil
from attar.distill.mapping import even, layers_for
from attar.distill.method import Weighted
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from tests.distill.classroom import built, context, lesson, loss, taught
from tests.models import corpus, make_checkpoint, make_student


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A teacher twice as wide as the pupil."""
    folder = tmp_path_factory.mktemp("combining")
    train = corpus("text-classification", 24, seed=3)
    return context(make_checkpoint(folder / "teacher", layers=4, hidden=64), folder / "targets", train)


@pytest.fixture(scope="module")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("pupil") / "m", layers=2, seed=7)


# --- weights ------------------------------------------------------------------------------------------------------


def test_weights_over_time_by_hand() -> None:
    assert [Weighted(weight=0.3).at(p) for p in (0, 0.5, 1)] == [0.3, 0.3, 0.3]
    assert [Weighted(weight=(1.0, 0.0)).at(p) for p in (0, 0.25, 1)] == [1.0, 0.75, 0.0]
    assert [Weighted(weight=(2.0, 4.0)).at(p) for p in (0, 0.5, 1)] == [2.0, 3.0, 4.0]


def test_the_loss_is_the_weighted_sum(where: Context, pupil: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """One method fades out as the other comes in."""
    losses: dict[float, float] = {}

    def no_training(_: Any, __: Any, loss_of: Callable[[list[int], float], Tensor], *___: Any, **____: Any) -> float:
        losses.update({p: loss_of([0, 1, 2], p).item() for p in (0.0, 0.25, 1.0)})
        return 0.0

    monkeypatch.setattr(distil, "train", no_training)
    fading: tuple[dict[str, Any], ...] = (
        {"use": "soft_targets", "weight": [1.0, 0.0]}, {"use": "logits", "weight": [0.0, 2.0]},
    )  # fmt: skip
    distil.apply(pupil, distil.Settings(methods=fading), where)
    with torch.no_grad():
        soft, raw = (loss({"use": use}, pupil, where, [0, 1, 2]).item() for use in ("soft_targets", "logits"))
    for progress, found in losses.items():
        assert found == pytest.approx((1 - progress) * soft + 2 * progress * raw, rel=1e-5)


@pytest.mark.parametrize("weight", [-1.0, [1.0], [1.0, 0.5, 0.0], [], "high", [1.0, "low"], float("nan")])
def test_weights_that_are_none(weight: Any) -> None:
    with pytest.raises(SettingsError, match="method logits: weight must be a number from 0 up, or two of them, not"):
        distil.Settings(methods=({"use": "logits", "weight": weight},))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "match"),
    [
        ({"use": "guessing"}, "method 'guessing' is unknown; known: attention, .*hidden_states, .*soft_targets$"),
        ({"use": "soft_targets.Settings"}, "is unknown; known: "),
        ({"weight": 1.0}, "a method lacks 'use', its name: one of attention, .*soft_targets$"),
        ({"use": "soft_targets", "temprature": 2.0}, "soft_targets has no setting 'temprature'; known: .*temperature"),
        ({"use": "labels", "layers": (1,)}, "labels has no setting 'layers'; known: weight"),
    ],
)
def test_methods_that_are_refused(method: dict[str, Any], match: str) -> None:
    with pytest.raises(SettingsError, match=match) as caught:
        distil.Settings(methods=({"use": "labels"}, method))
    assert "\n" not in str(caught.value)


def test_no_method_is_refused() -> None:
    with pytest.raises(SettingsError, match="at least one method"):
        distil.Settings(methods=())


# --- layers -------------------------------------------------------------------------------------------------------


def test_layers_by_rule_by_hand(pupil: Student) -> None:
    six = distil.take_layers(pupil, (1, 2, 1, 2, 1, 2))
    assert layers_for("even", six, 12) == (2, 4, 6, 8, 10, 12)
    assert layers_for("last", six, 12) == (7, 8, 9, 10, 11, 12)
    assert layers_for("even", pupil, 12) == (6, 12)
    assert layers_for("even", pupil, 3) == (2, 3)
    assert layers_for("last", pupil, 2) == layers_for("even", pupil, 2) == (1, 2)
    assert layers_for((0, 5), pupil, 6) == (0, 5)


@given(st.integers(1, 48), st.integers(0, 48))
def test_even_layers_rise_to_the_last(count: int, more: int) -> None:
    found = even(count, count + more)
    assert len(found) == count and found[0] >= 1 and found[-1] == count + more
    assert all(a < b for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("match", "depth", "message"),
    [
        ("odd", 4, "match must be a list of layers or one of .*even, last.*, not 'odd'"),
        ("even", 1, "2 layers cannot be matched by rule to the teacher's 1; list them"),
        ((1, 2, 3), 4, "match names 3 teacher layers, the student has 2"),
        ((1, 5), 4, "5 is not one of the teacher's 4 layers"),
    ],
)
def test_matches_that_are_refused(match: Any, depth: int, message: str, pupil: Student) -> None:
    with pytest.raises(SettingsError, match=message):
        layers_for(match, pupil, depth)


# --- a teacher of another width -----------------------------------------------------------------------------------


def test_hidden_states_through_a_projection(where: Context, pupil: Student) -> None:
    """What is compared is the projected state; here by numpy."""
    matched: dict[str, Any] = {"use": "hidden_states", "match": (2, 4)}
    by = taught(matched, pupil, where)
    method: Any = built(matched, pupil, by, where)
    assert [tuple(p.weight.shape) for p in method.projections] == [(64, 32), (64, 32)]
    with torch.no_grad():
        seen = lesson(pupil.encoder, method, by, [0, 5])
        expected = 0.0
        for mine, project, layer in zip(seen.found.hidden, method.projections, (2, 4), strict=True):
            squares = []
            for place, row in enumerate((0, 5)):
                # The last layer computes the first token alone, for a head that reads no other.
                length = min(len(by.encoded.ids[row]), mine.shape[1])
                start = int(by.targets.starts[row])
                theirs = by.targets.states[f"hidden{layer}"][start : start + length].astype("float64")
                moved = mine[place, :length].double().numpy() @ project.weight.double().numpy().T
                squares += ((moved - theirs) ** 2).mean(-1).tolist()
            expected += sum(squares) / len(squares)
        assert method(seen).item() == pytest.approx(expected, rel=1e-4)


def test_projections_learn_and_are_thrown_away(where: Context, pupil: Student, tmp_path: Path) -> None:
    wide = {"use": "hidden_states"}
    result = distil.apply(pupil, distil.Settings(methods=(wide,), epochs=12, batch_size=8, learning_rate=5e-3), where)
    assert result.encoder.state_dict().keys() == pupil.encoder.state_dict().keys()
    start = loss(wide, pupil, where, list(range(24))).item()
    assert result.lineage[-1]["final_loss"] < start
    result.save(tmp_path / "student")
    assert Student.load(tmp_path / "student").digest() == result.digest()
    assert replace(result, lineage=()).digest() != pupil.digest()
