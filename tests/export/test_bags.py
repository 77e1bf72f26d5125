"""Static and TF-IDF students: other texts, padding and threads change no bit of what they answer."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students import static, tfidf
from attar.export import parity
from attar.export.bundle import in_memory
from tests.export.test_bits import check_neighbours, run, same
from tests.models import EDGE_TEXTS, MAX_LENGTH, NOISE, corpus, inputs, make_student

SIZES: dict[str, tuple[ModuleType, Any]] = {
    "static": (static, static.Settings(width=60, hidden=37)),
    "static, pairs": (static, static.Settings(width=100, hidden=64, bigrams=70)),
    "tfidf": (tfidf, tfidf.Settings(bigrams=0)),
    "tfidf, pairs": (tfidf, tfidf.Settings(bigrams=70)),
}
LABELS = tuple("abcdefghijklm")


@pytest.fixture(scope="module", params=["text-classification", "pairs"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def start(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Student:
    folder = tmp_path_factory.mktemp("bags") / kind
    return make_student(
        folder, kind=kind, hidden=120, heads=5, labels=LABELS if kind == "text-classification" else None
    )


def made(start: Student, kind: str, name: str, scheme: str) -> Student:
    """With random weights throughout, as training would leave them."""
    module, sizes = SIZES[name]
    student: Student = module.apply(start, sizes, SimpleNamespace(train=corpus(kind, 40)))
    torch.manual_seed(3)
    for parameter in student.encoder.parameters():
        torch.nn.init.normal_(parameter)
    return student if scheme == "fp32" else replace(student, plan=QuantPlan().to_json())


@pytest.mark.parametrize("scheme", ["fp32", "int8 words"])
@pytest.mark.parametrize("name", SIZES)
def test_neighbours_and_padding_change_no_bit(name: str, scheme: str, kind: str, start: Student) -> None:
    student = made(start, kind, name, scheme)
    one, two = (in_memory(student, threads=threads) for threads in (1, 2))

    check_neighbours(one, kind, 25)
    encoded = one.task.encode(one.tokenizer, inputs(kind, (" ".join(NOISE),)))
    (expected,) = run(one, encoded, [0])
    for length in range(len(encoded.ids[0]), MAX_LENGTH + 1):
        assert same(run(two, encoded, [0], length)[0], expected), length
    for count in range(2, 70, 3):
        assert all(same(found, expected) for found in run(two, encoded, [0] * count)), count


@pytest.mark.parametrize("scheme", ["fp32", "int8 words"])
@pytest.mark.parametrize("name", SIZES)
def test_the_graph_computes_what_torch_does(name: str, scheme: str, kind: str, start: Student) -> None:
    """`check` itself refuses what departs by more than 1e-4 of the largest output."""
    found = parity.check(made(start, kind, name, scheme), (*corpus(kind, 40).texts, *inputs(kind, EDGE_TEXTS)))
    assert found.scheme_agreement > 90
