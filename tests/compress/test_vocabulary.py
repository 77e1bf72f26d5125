"""Vocabularies of a student's own: smaller, still able to spell everything, and the same text to the same answer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from attar.compress import vocabulary
from attar.distill.student import Student
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.models import EDGE_TEXTS, make_student, sentences

TRAIN = sentences(60, seed=21)
NOTHING = Examples((), None, "nothing")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("vocabulary") / "bert")


def changed(student: Student, train: Examples = TRAIN, **settings: Any) -> Student:
    context: Any = SimpleNamespace(train=train, unlabelled=NOTHING)
    return vocabulary.apply(student, vocabulary.Settings(**settings), context)


def pieces(student: Student, text: str) -> list[str]:
    return list(Tokenizer.from_buffer(student.tokenizer).encode(text).tokens)


def test_trimming_keeps_what_the_texts_use(student: Student) -> None:
    few = Examples(("The film was charming.", "a dull plot"), None, "few")
    small = changed(student, few)
    size = small.encoder.shape.vocab
    assert size < student.encoder.shape.vocab == len(json.loads(student.tokenizer)["model"]["vocab"])
    assert size == len(json.loads(small.tokenizer)["model"]["vocab"])
    # Texts of kept pieces are read as before, so that nothing else about the answer changes either.
    assert pieces(small, few.texts[0]) == pieces(student, few.texts[0])
    assert (small.logits(few.texts) - student.logits(few.texts)).abs().max() < 1e-5
    # Words that are gone fall into characters, not into [UNK].
    assert pieces(student, "gripping")[1:-1] == ["gripping"]
    assert pieces(small, "gripping")[1:-1] == ["g", *(f"##{c}" for c in "ripping")]


def test_padding_and_specials_are_found_again(student: Student) -> None:
    small = changed(student, Examples(("a dull plot",), None, "few"))
    vocab = json.loads(small.tokenizer)["model"]["vocab"]
    assert small.pad_id == vocab["[PAD]"]
    ids = small.encode(["a dull plot", *EDGE_TEXTS]).ids
    assert all(row[0] == vocab["[CLS]"] and row[-1] == vocab["[SEP]"] for row in ids)
    assert max(max(row) for row in ids) < small.encoder.shape.vocab
    assert torch.isfinite(small.logits(EDGE_TEXTS)).all()


def test_size_and_count_are_limits(student: Student) -> None:
    assert changed(student, size=5).encoder.shape.vocab < changed(student, size=500).encoder.shape.vocab
    once = Examples(("charming film film",), None, "once")
    assert "charming" in pieces(changed(student, once), "charming")
    assert "charming" not in pieces(changed(student, once, min_count=2), "charming")


def test_new_pieces_start_as_the_mean_of_the_old_ones(student: Student) -> None:
    texts = ("zebra zebra zebra", "a zebra was funny")
    new = changed(student, Examples(texts, None, "zebras"), how="train", size=200)
    vocab, old = (json.loads(s.tokenizer)["model"]["vocab"] for s in (new, student))
    assert "zebra" in vocab and "zebra" not in old
    spelled = [old["z"], *(old[f"##{c}"] for c in "ebra")]
    words = student.encoder.words.weight
    assert torch.allclose(new.encoder.words.weight[vocab["zebra"]], words[spelled].mean(0), atol=1e-6)
    assert torch.equal(new.encoder.words.weight[vocab["a"]], words[old["a"]])
    assert torch.isfinite(new.logits([*texts, *EDGE_TEXTS])).all()


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("ab", [2]), ("abc", [2, 5]), ("##bc", [4, 5]), ("a", [1]), ("axb", []), ("##c", [5])],
)
def test_spelling_is_greedy_from_the_left(piece: str, expected: list[int]) -> None:
    vocab = {"a": 1, "ab": 2, "##b": 4, "##c": 5}
    assert vocabulary.spelled(piece, vocab, "##") == expected


def test_the_same_texts_give_the_same_file(student: Student) -> None:
    for how in ("trim", "train"):
        first, second = (changed(student, how=how, size=60) for _ in range(2))
        assert first.tokenizer == second.tokenizer and first.digest() == second.digest()


def test_other_kinds_of_vocabulary_are_refused(student: Student, tmp_path: Path) -> None:
    from dataclasses import replace

    record = json.loads(student.tokenizer)
    record["model"] = {"type": "WordLevel", "vocab": record["model"]["vocab"], "unk_token": "[UNK]"}
    other = replace(student, tokenizer=json.dumps(record).encode())
    with pytest.raises(
        SettingsError, match="a vocabulary of type WordLevel cannot be changed; WordPiece, BPE, Unigram can"
    ):
        changed(other)


@pytest.mark.parametrize("wrong", [{"how": "grow"}, {"size": 0}, {"min_count": 0}])
def test_settings_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        vocabulary.Settings(**wrong)
