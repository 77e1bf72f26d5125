"""Every distillation method on tiny students: it learns, it says no NaN, and it refuses what it cannot do."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attar.distill.methods
from attar.distill import distil
from attar.distill.methods import hidden_states
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.supervision import NONE
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.distill.classroom import built, context, lesson, loss, taught
from tests.distill.test_supervision import trained
from tests.models import corpus, make_checkpoint, make_student

KINDS = ("text-classification", "multi-task")
"""A head on the first token alone, for which the last layer computes no other; and one on every token besides."""
METHODS: dict[str, dict[str, Any]] = {
    "logits": {"use": "logits"},
    "attention-kl": {"use": "attention", "match": (1, 3)},
    "attention-mse": {"use": "attention", "match": "last", "distance": "mse"},
    "attention-scores": {"use": "attention", "distance": "scores"},
    "relations": {"use": "relations", "relation_heads": 4},
    "relations-middle": {"use": "relations", "relation_heads": 2, "layer": 2, "relations": ("key",)},
    "embeddings-cosine": {"use": "embeddings"},
    "embeddings-mse": {"use": "embeddings", "distance": "mse"},
    "embeddings-similarity": {"use": "embeddings", "distance": "similarity"},
    "contrastive": {"use": "contrastive", "bank": 16, "temperature": 0.02},
    "patient": {"use": "patient", "last_layer": True},
    "hidden_states": {"use": "hidden_states"},
    "hidden_states-last": {"use": "hidden_states", "match": (-1, 3)},
    "soft_targets": {"use": "soft_targets"},
    "labels": {"use": "labels"},
    "mixup": {"use": "mixup", "layer": 1},
}
EVERY = pytest.mark.parametrize("name", METHODS)
ROWS = list(range(12))


def test_every_method_is_tried_here() -> None:
    files = {info.name for info in pkgutil.iter_modules(attar.distill.methods.__path__)}
    alone = {"pseudo_labels"}  # which needs unlabelled texts: test_pseudo_labels.py
    assert files == {given["use"] for given in METHODS.values()} | alone


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def where(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("methods")
    train = corpus(kind, 48, seed=3)
    # Texts of which the tokenizer leaves nothing teach nothing, and must not break anything.
    train = Examples((*train.texts, "", " "), (*(train.labels or ()), *(train.labels or ())[:2]), "with empty ones")
    return context(make_checkpoint(folder / "teacher", kind=kind, layers=3), folder / "targets", train)


@pytest.fixture(scope="module")
def pupil(kind: str, where: Context, tmp_path_factory: pytest.TempPathFactory) -> Student:
    """A student that began elsewhere than at the teacher."""
    return make_student(tmp_path_factory.mktemp("pupil") / "m", kind=kind, layers=2, seed=7)


@pytest.fixture(scope="module")
def narrow(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Student:
    """Of another width, with fewer heads, and with a vocabulary of its own."""
    student = make_student(tmp_path_factory.mktemp("narrow") / "m", kind=kind, layers=2, hidden=16, heads=2, seed=8)
    return replace(student, tokenizer=trained(60))


def settings(given: dict[str, Any], **others: Any) -> distil.Settings:
    return distil.Settings(methods=(given,), **{"epochs": 3, "batch_size": 10, "learning_rate": 2e-3} | others)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "labels"])  # labels: see test_training.py
def test_training_lowers_the_loss(name: str, where: Context, pupil: Student) -> None:
    given, digest = METHODS[name], pupil.digest()
    epochs = 10 if name == "contrastive" else 3  # which has to tell 17 random vectors apart that are much alike
    result = distil.apply(pupil, settings(given, epochs=epochs, train_words=True), where)
    assert pupil.digest() == digest
    with torch.no_grad():
        before, after = (loss(given, student, where, ROWS).item() for student in (pupil, result))
    assert 0 < after < 0.9 * before


OTHER_MINIMUM = {"labels", "contrastive", "relations-middle", "mixup"}


@pytest.mark.parametrize("name", sorted(METHODS.keys() - OTHER_MINIMUM))
def test_the_teacher_has_nothing_to_learn_from_itself(name: str, where: Context) -> None:
    """A student with the teacher's own layers; bf16 passes and fp16 storage of targets leave a rest."""
    given = {k: v for k, v in METHODS[name].items() if k != "match"}
    with torch.no_grad():
        assert loss(given, Student.load(where.teacher), where, ROWS).item() < 1e-2


@EVERY
def test_other_widths_heads_and_vocabularies(name: str, where: Context, narrow: Student, tmp_path: Path) -> None:
    """Alone each method trains such a student too, and the same way twice."""
    relation_heads = {"relation_heads": 2} if METHODS[name]["use"] == "relations" else {}
    chosen = settings(METHODS[name] | relation_heads, epochs=1, train_words=True)
    result = distil.apply(narrow, chosen, where)
    assert result.digest() != narrow.digest()
    assert result.encoder.shape == narrow.encoder.shape
    assert distil.apply(narrow, chosen, where).digest() == result.digest()


@EVERY
@pytest.mark.parametrize("unknown", [False, True], ids=["empty texts", "no token aligned"])
def test_nothing_to_learn_from_is_no_nan(name: str, unknown: bool, where: Context, narrow: Student) -> None:
    given = METHODS[name] | ({"relation_heads": 2} if METHODS[name]["use"] == "relations" else {})
    student = narrow.copy()
    by = taught(given, student, where)
    rows = [len(by.encoded.ids) - 2, len(by.encoded.ids) - 1]
    assert [len(by.encoded.ids[row]) for row in rows] == [2, 2]  # [CLS] and [SEP]
    if unknown:
        by = replace(by, places=[np.full(len(ids), NONE) for ids in by.encoded.ids])
    method = built(given, student, by, where)
    found = method(lesson(student.encoder, method, by, rows))
    assert found.shape == () and torch.isfinite(found)
    if unknown and given["use"] not in {"logits", "soft_targets", "labels", "mixup"}:
        assert found.item() == 0
    if found.requires_grad:
        found.backward()
    gradients = [p.grad for p in (*student.encoder.parameters(), *method.parameters()) if p.grad is not None]
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_methods_go_together(where: Context, pupil: Student) -> None:
    together = [METHODS[name] for name in ("logits", "attention-kl", "relations", "embeddings-cosine", "contrastive")]
    mixed = distil.Settings(methods=(*together, {"use": "patient", "weight": [1.0, 0.0], "last_layer": True}), epochs=1)
    assert distil.apply(pupil, mixed, where).lineage[-1]["final_loss"] > 0


def test_the_bank_is_drawn_by_its_seed(where: Context, pupil: Student) -> None:
    def owners(seed: int) -> list[int]:
        given = {"use": "contrastive", "bank": 8, "seed": seed}
        method: Any = built(given, pupil, taught(given, pupil, where), where)
        return [int(i) for i in method.bank.owners]

    assert len(set(owners(0))) == 8
    assert owners(0) == owners(0) != owners(1)


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(given: dict[str, Any], student: Student, where: Context, match: str) -> None:
    with pytest.raises(SettingsError, match=match) as caught:
        distil.apply(student, settings(given), where)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"use": "attention", "distance": "cosine"}, "distance must be one of kl, mse, scores, not 'cosine'"),
        ({"use": "attention", "match": (0, 1)}, "0, the embeddings, has no attention"),
        ({"use": "attention", "match": (1, 4)}, "4 is not one of the teacher's 3 layers"),
        ({"use": "attention", "match": (-1, 1)}, "-1 is not one of the teacher's 3 layers"),
        ({"use": "hidden_states", "match": (-1, -1)}, "leaves every layer free"),
        ({"use": "embeddings", "distance": "kl"}, "distance must be one of cosine, mse, similarity, not 'kl'"),
        ({"use": "relations", "layer": 4}, "layer: 4 is not one of the teacher's 3 layers"),
        ({"use": "relations", "layer": 0}, "layer: 0 is not one"),
        ({"use": "relations"}, "relation_heads = 12 does not divide .* 32 and .* 32; these do: 1, 2, 4, 8, 16, 32"),
        ({"use": "relations", "relation_heads": 0}, "relation_heads must be at least 1, not 0"),
        ({"use": "relations", "relations": "keys"}, "relations must be 'all' or a list of query, key, value"),
        ({"use": "relations", "relations": ()}, "relations must be 'all' or a list"),
        ({"use": "contrastive", "bank": 0}, "bank must be at least 1, not 0"),
        ({"use": "contrastive", "temperature": 0.0}, r"temperature must be above 0, not 0\.0"),
        ({"use": "contrastive", "pool": "max"}, "pool must be one of first, mean, not 'max'"),
    ],
)
def test_settings_that_are_refused(given: dict[str, Any], match: str, where: Context, pupil: Student) -> None:
    refused(given, pupil, where, match)


def test_a_free_layer_asks_nothing_of_the_teacher(pupil: Student) -> None:
    given = hidden_states.Settings(match=(-1, 3))
    assert hidden_states.needs(given, pupil, 3) == ("hidden3",)


def test_what_the_last_layer_does_not_compute_is_refused(kind: str, where: Context, pupil: Student) -> None:
    queries: dict[str, Any] = {"use": "relations", "relations": ("query", "key"), "relation_heads": 4}
    means: dict[str, Any] = {"use": "contrastive", "pool": "mean", "bank": 8}
    if kind == "text-classification":
        refused(queries, pupil, where, "the query of the first token alone.*choose key and value")
        refused(means, pupil, where, "computes the first token alone: set pool")
    else:
        for given in (queries, means):
            assert loss(given, pupil, where, ROWS).item() > 0


def test_one_layer_has_no_layer_before_the_last(where: Context, pupil: Student) -> None:
    refused({"use": "patient"}, distil.take_layers(pupil, (1,)), where, "has no other; set last_layer")


def test_attention_with_biases_is_refused(tmp_path: Path) -> None:
    """Of MPNet, whose attention is more than queries and keys; `relations` does without attention."""
    train = corpus("text-classification", 12, seed=3)
    folder = make_checkpoint(tmp_path / "teacher", "mpnet", layers=3)
    where = context(folder, tmp_path / "targets", train)
    biased = distil.take_layers(Student.load(folder), (1, 3))
    refused({"use": "attention"}, biased, where, "the student adds biases by distance .* use relations instead")
    plain = replace(make_student(tmp_path / "plain", layers=2), tokenizer=biased.tokenizer, pad_id=biased.pad_id)
    refused({"use": "attention"}, plain, where, "a mpnet teacher adds biases by distance .* use relations instead")
    related = {"use": "relations", "relation_heads": 4}
    assert loss(related, biased, where, ROWS).item() > 0


@pytest.mark.parametrize("family", ["distilbert", "roberta", "electra"])
@pytest.mark.parametrize("name", ["attention-kl", "relations", "embeddings-cosine", "contrastive", "patient"])
def test_teachers_of_other_families(name: str, family: str, tmp_path: Path) -> None:
    """The states of the same names are the same things: a student with all of the teacher's layers has little to
    learn."""
    train = corpus("text-classification", 12, seed=3)
    where = context(make_checkpoint(tmp_path / "teacher", family, layers=2), tmp_path / "targets", train)
    given = METHODS[name] | ({"match": "even"} if "match" in METHODS[name] else {})
    student = Student.load(where.teacher)
    with torch.no_grad():
        own, other = (loss(given, s, where, ROWS).item() for s in (student, _shuffled(student)))
    assert own < other if name == "contrastive" else own < min(1e-2, 0.5 * other)


def _shuffled(student: Student) -> Student:
    """The same student with its layers in the other order, and other embeddings."""
    other = distil.take_layers(student, _reverse(student.encoder.depth))
    with torch.no_grad():
        other.encoder.words.weight.copy_(other.encoder.words.weight.roll(7, 0))
    return other


def _reverse(count: int) -> Sequence[int]:
    return range(count, 0, -1)
