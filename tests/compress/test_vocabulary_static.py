"""Static students with fewer pieces, and with rows in fewer bits: smaller, and where it can be with the same answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar.compress import rows, vocabulary
from attar.compress.quantize.plan import QuantPlan
from attar.distill import distil
from attar.distill.student import Student
from attar.distill.students import static
from attar.export import parity
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.runtime.data import Examples
from tests.compress import pruning
from tests.models import EDGE_TEXTS, make_checkpoint, sentences

NOTHING = Examples((), None, "nothing")
FEW = Examples(("The film was charming.", "a dull plot and a charming film", "was the plot dull?"), None, "few")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("static") / "bert", layers=1)


@pytest.fixture(scope="module", params=[0, 71], ids=["words", "pairs"])
def student(request: pytest.FixtureRequest, teacher: Path) -> Student:
    """With random weights throughout, as training would leave them."""
    context: Any = SimpleNamespace(train=sentences(30))
    found = static.apply(Student.load(teacher), static.Settings(32, 24, request.param), context)
    generator = torch.Generator().manual_seed(1)
    for parameter in found.encoder.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return found


def trimmed(student: Student, train: Examples = FEW, **settings: Any) -> Student:
    context: Any = SimpleNamespace(train=train, unlabelled=NOTHING)
    return vocabulary.apply(student, vocabulary.Settings(**settings), context)


@pytest.mark.parametrize("words", ["fp32", "int8", "int4"])
def test_texts_of_kept_pieces_get_the_same_bits(words: Any, student: Student) -> None:
    before = replace(student, plan=QuantPlan(words=words).to_json())
    small = trimmed(before)
    assert small.encoder.shape.vocab < student.encoder.shape.vocab
    assert len(to_onnx(small)) < len(to_onnx(before))
    assert torch.equal(small.logits(FEW.texts), student.logits(FEW.texts))
    old, new = (in_memory(s, threads=1).outputs(s.encode(FEW.texts))["logits"] for s in (before, small))
    assert np.array_equal(old, new)


def test_other_texts_are_read_in_smaller_pieces(student: Student, tmp_path: Path) -> None:
    small = trimmed(student)
    assert len(small.encode(["gripping"]).ids[0]) == len("gripping") + 2
    assert torch.isfinite(small.logits(EDGE_TEXTS)).all()
    assert not torch.allclose(small.logits(["gripping"]), student.logits(["gripping"]))
    parity.check(small, (*FEW.texts, "a gripping film", *EDGE_TEXTS))
    small.save(tmp_path / "small")
    again = Student.load(tmp_path / "small")
    assert again.digest() == small.digest() and to_onnx(again) == to_onnx(small)
    assert torch.equal(again.logits(EDGE_TEXTS), small.logits(EDGE_TEXTS))


def test_it_can_be_trimmed_again(student: Student) -> None:
    fewer = Examples(FEW.texts[:1], None, "fewer")
    twice = trimmed(trimmed(student, sentences(20)), fewer)
    assert twice.encoder.shape.vocab == trimmed(student, fewer).encoder.shape.vocab
    assert torch.equal(twice.logits(fewer.texts), student.logits(fewer.texts))


def test_new_pieces_start_at_the_mean_and_are_hashed_by_ids_of_their_own(student: Student) -> None:
    zebras = Examples(("zebra zebra zebra film",), None, "zebras")
    new = trimmed(student, zebras, how="train")
    (old_ids,), (ids,) = (s.encode(["zebra"]).ids for s in (student, new))
    assert len(ids) == 3 and len(old_ids) == 7
    mine, theirs = (s.encoder.state_dict() for s in (new, student))
    for name in ("words.weight", "weights.weight"):
        assert torch.allclose(mine[name][ids[1]], theirs[name][old_ids[1:-1]].mean(0), atol=1e-6)
    if "first_ids" in mine:
        assert len(set(mine["first_ids"].tolist())) == new.encoder.shape.vocab
        assert mine["first_ids"][ids[1]] >= student.encoder.shape.vocab
    parity.check(new, (*zebras.texts, *EDGE_TEXTS))


def test_it_learns_on_with_its_own_pieces(student: Student, teacher: Path) -> None:
    small = trimmed(student)
    lessons = distil.Settings(epochs=1, learning_rate=1e-2, train_words=True)
    learnt = distil.apply(small, lessons, pruning.context(teacher=teacher))
    mine, before = learnt.encoder.state_dict(), small.encoder.state_dict()
    assert not torch.equal(mine["words.weight"], before["words.weight"])
    assert "first_ids" not in mine or torch.equal(mine["first_ids"], before["first_ids"])


def test_students_of_before_keep_their_digest(student: Student) -> None:
    """What is saved of a student that was never trimmed says nothing of it."""
    assert "renumbered" not in student.encoder.shape.to_json() and "first_ids" not in student.encoder.state_dict()


@pytest.mark.parametrize(
    ("points", "taken"),
    [({"fp32": 90.0, "int8": 90.0, "int4": 89.9}, "int4"), ({"fp32": 90.0, "int8": 89.9, "int4": 80.0}, "int8")],
)
def test_rows_in_fewer_bits(points: dict[str, float], taken: str, student: Student) -> None:
    context: Any = SimpleNamespace(score=lambda s: points[rows.plan_of(s).words])
    found = rows.apply(student, rows.Settings(), context)
    assert rows.plan_of(found).words == taken
    whole, now = len(to_onnx(student)), len(to_onnx(found))
    table = 32 * 4 * (student.encoder.shape.vocab + student.encoder.shape.bigrams)
    # 32 values of four bytes become one byte each, or half a one, and a scale.
    assert whole - now == pytest.approx(table * (1 - (36 if taken == "int8" else 20) / 128), abs=1500)
    parity.check(found, (*FEW.texts, *EDGE_TEXTS))
