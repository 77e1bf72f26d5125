"""Word embeddings in every form, factorized and in fewer bits: neighbours and padding change no bit, in any network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attar.compress.factorize import embeddings
from attar.compress.quantize.plan import ROWS, QuantPlan
from attar.distill.student import Student
from attar.distill.students import static, tfidf
from attar.export import parity
from attar.export.bundle import in_memory
from attar.runtime.data import Examples
from tests.export.test_bits import check_neighbours, run, same
from tests.models import MAX_LENGTH, corpus, make_student

CONTEXT: Any = SimpleNamespace(train=corpus("text-classification", 40), unlabelled=Examples((), None, "nothing"))
WORDS = pytest.mark.parametrize("words", ROWS)
MAKERS = {
    "factorized": lambda student: embeddings.apply(student, embeddings.Settings(0.6), CONTEXT),
    "whole": lambda student: student,
    "odd": lambda student: static.apply(student, static.Settings(width=33, hidden=24, bigrams=50), CONTEXT),
    "two": lambda student: tfidf.apply(student, tfidf.Settings(bigrams=50), CONTEXT),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Student]:
    """Students whose tables are 120, 56 (and a product), 33 and 2 wide."""
    wide = make_student(tmp_path_factory.mktemp("words") / "wide", hidden=120, ffn=200, heads=5)
    return {name: make(wide) for name, make in MAKERS.items()}


def planned(student: Student, words: str) -> Student:
    return replace(student, plan=QuantPlan().to_json() | {"words": words})


@WORDS
@pytest.mark.parametrize("name", MAKERS)
def test_neighbours_and_padding_change_no_bit(name: str, words: str, made: dict[str, Student]) -> None:
    check_neighbours(in_memory(planned(made[name], words), threads=1), "text-classification", 10)


@WORDS
def test_every_padding_gives_the_same_bits(words: str, made: dict[str, Student]) -> None:
    for plan in (None, QuantPlan().to_json() | {"words": words}):
        model = in_memory(replace(made["factorized"], plan=plan), threads=2)
        for text in ("", "a dull film", CONTEXT.train.texts[0]):
            encoded = model.task.encode(model.tokenizer, [text])
            (expected,) = run(model, encoded, [0])
            for length in range(len(encoded.ids[0]), MAX_LENGTH + 1, 2):
                assert same(run(model, encoded, [0], length)[0], expected), length
            for count in (2, 3, 5, 8, 17):
                assert all(same(found, expected) for found in run(model, encoded, [0] * count)), count


@WORDS
@pytest.mark.parametrize("name", MAKERS)
def test_the_file_computes_what_the_student_does(name: str, words: str, made: dict[str, Student]) -> None:
    found = parity.check(planned(made[name], words), CONTEXT.train.texts)
    assert found.max_abs < 1e-4 and found.scheme_agreement > 85


def test_rows_of_real_width_and_factors_of_real_rank(tmp_path: Path) -> None:
    """384 wide: the ranks and batches in which the engine takes its widest kernels."""
    student = make_student(tmp_path / "m", hidden=384, heads=12, ffn=64, layers=1)
    student = embeddings.apply(student, embeddings.Settings(0.7), CONTEXT)
    assert student.transformer.shape.word_rank >= 64
    model = in_memory(planned(student, "int4"), threads=2)
    encoded = model.task.encode(model.tokenizer, CONTEXT.train.texts[:33])
    alone = [run(model, encoded, [i])[0] for i in range(33)]
    for size in (2, 7, 16, 33):
        assert all(same(a, b) for a, b in zip(run(model, encoded, list(range(size))), alone, strict=False)), size
    assert all(np.isfinite(values).all() for found in alone for values in found.values())
