"""Static-embedding and TF-IDF students: how they start, by hand, and that they learn; encoders that begin elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar.distill import distil
from attar.distill.student import Student
from attar.distill.students import encoder, static, tfidf
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.distill.test_students import teacher  # noqa: F401  # a fixture
from tests.distill.test_training import HELD_OUT, accuracy, context
from tests.models import add_pooling, make_checkpoint, make_student, sentences

TEXTS = ("a dull dull film", "a superb film", "a plot")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("bags") / "bert")


def over(*texts: str) -> Any:
    return SimpleNamespace(train=Examples(texts, None, "texts"))


def ids_of(student: Student, text: str) -> list[int]:
    return student.encode([text]).ids[0]


def test_tfidf_by_hand(given: Student) -> None:
    student = tfidf.apply(given, tfidf.Settings(bigrams=0), over(*TEXTS))
    weights = torch.randn(student.encoder.words.weight.shape, generator=torch.Generator().manual_seed(0))
    student.encoder.words.weight.data = weights
    a, dull, film = ids_of(given, "a dull film")[1:-1]
    # Three texts: "film" is in two of them, "dull" in one, "a" in all and so says nothing.
    idf = {dull: math.log(4 / 2) + 1, film: math.log(4 / 3) + 1}
    tf = {dull: 1 + math.log(2), film: 1.0}
    total = sum(tf[i] * idf[i] for i in idf)
    expected = sum(tf[i] * idf[i] * weights[i] for i in idf) / total
    found = student.logits(["a dull film dull"])[0]
    assert a not in idf and torch.allclose(found, expected, atol=1e-6)
    # Order says nothing without pairs of neighbours, and something with them.
    assert torch.allclose(student.logits(["dull film dull"])[0], expected, atol=1e-6)
    pairs = tfidf.apply(given, tfidf.Settings(bigrams=97), over(*TEXTS))
    torch.nn.init.normal_(pairs.encoder.words.weight)
    assert not torch.allclose(pairs.logits(["dull film"]), pairs.logits(["film dull"]))


def test_static_weights_by_hand(given: Student) -> None:
    student = static.apply(given, static.Settings(width=8, hidden=4), over(*TEXTS))
    network: Any = student.encoder
    film = ids_of(given, "film")[1]
    tokens = sum(len(ids_of(given, t)) for t in TEXTS)
    assert network.weights.weight[film].item() == pytest.approx(math.log(1e-3 / (1e-3 + 2 / tokens)), rel=1e-5)
    never = ids_of(given, "superb")[1]
    assert network.weights.weight[never].item() < 0
    assert network.weights.weight[ids_of(given, "lovely")[1]].item() == 0.0
    # A token's row is a rotation of what the transformer makes of it alone: at full width all distances stay.
    states = static.token_states(given)
    whole = static.apply(given, static.Settings(width=32, hidden=4), over(*TEXTS)).encoder.words.weight.detach()
    mine, theirs = torch.cdist(whole, whole), torch.cdist(states, states)
    assert torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1] > 0.9999


def test_static_state_by_hand(given: Student) -> None:
    student = static.apply(given, static.Settings(width=8, hidden=4, bigrams=31), over(*TEXTS))
    network: Any = student.encoder
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    row = ids_of(given, "a dull film")
    with torch.no_grad():
        x = network.words.weight[row].clone()
        for place, (a, b) in enumerate(pairwise(row)):
            x[place] += network.pairs.weight[(a * static.PRIME + b) % 31]
        share = torch.softmax(network.weights.weight[row][:, 0], 0)
        state = torch.relu(network.mlp(torch.cat([share @ x, x.amax(0)])))
        expected = network.heads["logits"].classifier(state)
    assert torch.allclose(student.logits(["a dull film"])[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["static", "tfidf"])
def test_they_learn(name: str, teacher: Path, tmp_path: Path) -> None:  # noqa: F811  # the fixture imported above
    where = context(teacher, tmp_path / "cache")
    start = (
        static.apply(Student.load(teacher), static.Settings(width=16, hidden=16), where)
        if name == "static"
        else tfidf.apply(Student.load(teacher), tfidf.Settings(bigrams=200), where)
    )
    learnt = distil.apply(start, distil.Settings(epochs=12, batch_size=16, learning_rate=3e-2, train_words=True), where)
    assert accuracy(learnt, HELD_OUT) > 85
    assert start.digest() != learnt.digest()


@pytest.mark.parametrize("kind", ["token-classification", "question-answering", "embeddings", "multi-task"])
def test_what_they_cannot_serve_is_said(kind: str, tmp_path: Path) -> None:
    student = make_student(tmp_path / kind, kind=kind)
    for module, settings in ((static, static.Settings()), (tfidf, tfidf.Settings())):
        with pytest.raises(SettingsError, match="use another student"):
            module.apply(student, settings, over(*TEXTS))


def test_methods_that_need_layers_are_refused(teacher: Path, tmp_path: Path) -> None:  # noqa: F811  # the fixture imported above
    where = context(teacher, tmp_path / "cache")
    start = static.apply(Student.load(teacher), static.Settings(width=8, hidden=4), where)
    with pytest.raises(SettingsError, match="a static student has no layers to match"):
        distil.apply(start, distil.Settings(methods=({"use": "hidden_states"},)), where)


# --- encoders that begin elsewhere --------------------------------------------------------------------------------


def test_another_pretrained_encoder(given: Student, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", kind="embeddings", hidden=24, ffn=48, layers=3, seed=5)
    add_pooling(other, hidden=24)
    found = encoder.apply(given, encoder.Settings(model=str(other), layers=(1, 3)), over(*TEXTS))
    assert found.task == given.task
    assert found.encoder.shape.hidden == 24 and found.encoder.depth == 2
    whole = Student.load(other)
    assert torch.equal(found.transformer.layers[1].query.weight, whole.transformer.layers[2].query.weight)
    assert found.logits(["a film"]).shape == given.logits(["a film"]).shape
    again = encoder.apply(given, encoder.Settings(model=str(other), layers=(1, 3)), over(*TEXTS))
    assert again.digest() == found.digest()


def test_keeping_the_whole_width_changes_nothing_but_the_directions(given: Student) -> None:
    """The embeddings are rotated, and rotating back gives them again."""
    full = encoder.narrowed(given, 32)
    basis = encoder.principal(given.encoder.words.weight.detach(), 32)
    assert torch.allclose(basis @ basis.T, torch.eye(32), atol=1e-5)
    assert torch.allclose(full.encoder.words.weight @ basis.T, given.encoder.words.weight, atol=1e-5)
    query, old = full.transformer.layers[0].query.weight, given.transformer.layers[0].query.weight
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose((x @ basis) @ query.T, x @ old.T, atol=1e-4)
    output, before = full.transformer.layers[0].output.weight, given.transformer.layers[0].output.weight
    assert torch.allclose(x @ output.T @ basis.T, x @ before.T, atol=1e-4)


def test_narrow_is_smaller_and_works(given: Student) -> None:
    narrow = encoder.narrowed(given, 16)
    assert narrow.encoder.shape.hidden == 16
    assert narrow.encoder.parameter_count() < 0.6 * given.encoder.parameter_count()
    assert np.isfinite(narrow.logits([*TEXTS, ""]).numpy()).all()


@pytest.mark.parametrize("width", [0, 33, -1])
def test_widths_that_cannot_be(width: int, given: Student) -> None:
    with pytest.raises(SettingsError, match=f"between 1 and the encoder's 32, not {width}"):
        encoder.narrowed(given, width)


def test_an_embedder_must_be_as_wide(tmp_path: Path) -> None:
    student = make_student(tmp_path / "embedder", kind="embeddings")
    other = make_checkpoint(tmp_path / "other", hidden=24, ffn=48)
    with pytest.raises(SettingsError, match="an embedder must be as wide as its teacher"):
        encoder.apply(student, encoder.Settings(model=str(other)), over(*sentences(3).texts))
    with pytest.raises(SettingsError, match="as wide"):
        encoder.apply(student, replace(encoder.Settings(), width=16), over(*sentences(3).texts))
