"""Pseudo-labels: by hand where labels spread along a chain and not to what is nearest; and what a student learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from attar.distill import distil
from attar.distill.methods.pseudo_labels import Settings, spread, sure
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import IGNORED
from tests.distill.classroom import built, context, lesson, taught
from tests.models import corpus, make_checkpoint, make_student

ALL = corpus("text-classification", 30, seed=3)
LABELLED = 18


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """The last texts of all are unlabelled."""
    folder = tmp_path_factory.mktemp("pseudo")
    whole = context(make_checkpoint(folder / "teacher", layers=2), folder / "targets", ALL)
    train = Examples(ALL.texts[:LABELLED], (ALL.labels or ())[:LABELLED], "labelled")
    return replace(whole, train=train, unlabelled=Examples(ALL.texts[LABELLED:], None, "unlabelled"))


@pytest.fixture(scope="module")
def pupil(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("pupil") / "m", layers=2, seed=7)


def at(degrees: list[float]) -> Any:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_only_sure_labels_count() -> None:
    found = sure(np.array([[0.1, 0.9], [0.55, 0.45], [0.0, 0.0], [0.6, 0.4]]), 0.6)
    assert found.tolist() == [1, IGNORED, IGNORED, 0]
    assert sure(np.zeros((1, 2)), 0.0).tolist() == [IGNORED]  # what no label reaches


def test_labels_spread_along_a_chain_and_not_to_what_is_nearest() -> None:
    # Class 0 at 0 degrees begins a chain of texts 6 degrees apart, up to 54. Class 1 is at 70, with its own
    # two neighbours at 73 and 76, so no edge leads from it to the chain.
    chain = [6.0 * i for i in range(1, 10)]
    vectors = at([0.0, 70.0, *chain, 73.0, 76.0])
    end = 2 + chain.index(54.0)
    nearest = int((vectors[:2] @ vectors[end]).argmax())
    assert nearest == 1  # 16 degrees away, where class 0 is 54 away
    settings = Settings(by="propagation", threshold=0.5, neighbours=2, alpha=0.9)
    found = spread(vectors, np.array([0, 1]), settings)
    assert found[end] == 0 and found[-2:].tolist() == [1, 1]
    assert found[2:-2].tolist() == [0] * 9


def test_the_loss_is_cross_entropy_of_sure_unlabelled_texts(where: Context, pupil: Student) -> None:
    probabilities = torch.softmax(torch.from_numpy(np.array(by(where, pupil).targets.heads["logits"])), -1)
    threshold = float(probabilities[LABELLED:].max(1).values.median())
    options = {"use": "pseudo_labels", "threshold": threshold}
    supervision = by(where, pupil)
    method: Any = built(options, pupil, supervision, where)
    rows = [0, 2, *range(LABELLED, 30)]
    with torch.no_grad():
        given = lesson(pupil.encoder, method, supervision, rows)
        found = method(given)
    counted = [r for r in rows if r >= LABELLED and probabilities[r].max() >= threshold]
    assert 0 < len(counted) < 12
    outputs = given.found.heads["logits"][[rows.index(r) for r in counted]]
    expected = F.cross_entropy(outputs, probabilities[counted].argmax(1))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    # Training texts alone, or no sure one, teach nothing and break nothing.
    assert method(lesson(pupil.encoder, method, supervision, [0, 2])).item() == 0
    nobody: Any = built({**options, "threshold": 1.0}, pupil, supervision, where)
    assert nobody(lesson(pupil.encoder, nobody, supervision, rows)).item() == 0


def by(where: Context, student: Student) -> Supervision:
    return taught({"use": "pseudo_labels"}, student, where)


@pytest.mark.parametrize("way", ["teacher", "propagation"])
def test_a_student_learns_them(way: str, where: Context, pupil: Student) -> None:
    given = {"use": "pseudo_labels", "by": way, "threshold": 0.5, "neighbours": 4}
    supervision = taught(given, pupil, where)
    method: Any = built(given, pupil, supervision, where)
    rows = list(range(LABELLED, 30))
    wanted = method.labels["logits"][rows]
    assert set(wanted.tolist()) <= {0, 1, IGNORED} and (wanted != IGNORED).any()
    settings = distil.Settings(methods=(given, {"use": "labels"}), epochs=2, batch_size=10, learning_rate=2e-3)
    result = distil.apply(pupil, settings, where)
    assert distil.apply(pupil, settings, where).digest() == result.digest()
    with torch.no_grad():
        before, after = (method(lesson(s.encoder, method, supervision, rows)).item() for s in (pupil, result))
    assert after < before


def test_what_cannot_be_labelled_is_refused(where: Context, pupil: Student, tmp_path: Path) -> None:
    def refused(student: Student, at: Context, words: str, **options: Any) -> None:
        with pytest.raises(SettingsError, match=words):
            distil.apply(student, distil.Settings(methods=({"use": "pseudo_labels", **options},)), at)

    refused(pupil, where, "by must be one of teacher, propagation, not 'nearest'", by="nearest")
    refused(pupil, where, "threshold must be between 0 and 1, not 2", threshold=2)
    refused(pupil, where, "k must be 1 or more, not 0", by="propagation", neighbours=0)
    none = replace(where, train=ALL)
    refused(pupil, none, r"there are none: give \[data\] unlabelled")
    blind = replace(where, train=replace(where.train, labels=None))
    refused(pupil, blind, 'set by = "teacher"', by="propagation")
    scorer = make_student(tmp_path / "m", kind="regression", layers=1)
    refused(scorer, where, "no head of this regression student has classes")
