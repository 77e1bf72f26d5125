"""Recurrent and convolutional students: other texts, padding and threads change no bit of what they answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.distill.students import convolutional, recurrent
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from tests.export.test_bits import check_neighbours, run, same
from tests.models import MAX_LENGTH, NOISE, inputs, make_student

READS = ("text-classification", "embeddings", "multi-task", "question-answering")
"""Heads on the maximum, on the mean, on every token, and on the tokens of pairs."""
SIZES: dict[str, tuple[ModuleType, Any]] = {
    "lstm": (recurrent, recurrent.Settings(width=60, hidden=37, layers=2)),
    "gru": (recurrent, recurrent.Settings("gru", width=120, hidden=64, dense=30)),
    "convolutional": (convolutional, convolutional.Settings(width=120, filters=37)),
    "even": (convolutional, convolutional.Settings(width=50, filters=64, widths=(2, 4), dense=30)),
}


@pytest.fixture(scope="module", params=READS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def start(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("bits") / kind, kind=kind, hidden=120, heads=5)


@pytest.fixture(params=["fp32", "int8 words"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(start: Student, name: str, scheme: str) -> Student:
    module, sizes = SIZES[name]
    student: Student = module.apply(start, sizes, None)
    return student if scheme == "fp32" else replace(student, plan=QuantPlan().to_json())


@pytest.mark.parametrize("name", SIZES)
def test_neighbours_and_padding_change_no_bit(name: str, scheme: str, kind: str, start: Student) -> None:
    check_neighbours(in_memory(made(start, name, scheme), threads=1), kind, 15)


@pytest.mark.parametrize("name", SIZES)
def test_every_padding_and_batch_gives_the_same_bits(name: str, scheme: str, kind: str, start: Student) -> None:
    one, two = (in_memory(made(start, name, scheme), threads=threads) for threads in (1, 2))
    for text in inputs(kind, ("", "a dull film", " ".join(NOISE))):
        encoded = one.task.encode(one.tokenizer, [text])
        (expected,) = run(one, encoded, [0])
        for length in range(len(encoded.ids[0]), MAX_LENGTH + 1):
            assert same(run(two, encoded, [0], length)[0], expected), length
        for count in range(2, 20):
            assert all(same(found, expected) for found in run(two, encoded, [0] * count)), count


@pytest.mark.parametrize("name", SIZES)
def test_what_the_graph_is_made_of(name: str, tmp_path: Path) -> None:
    """The operators that the tests above hold for; Conv's sums depend on the padding."""
    graph = onnx.load_from_string(to_onnx(made(make_student(tmp_path / "m", hidden=120, heads=5), name, "fp32"))).graph
    kinds = [node.op_type for node in graph.node]
    assert "Conv" not in kinds
    expected = {"lstm": ("LSTM", 2), "gru": ("GRU", 1), "convolutional": ("MatMul", 3), "even": ("MatMul", 2)}
    assert kinds.count(expected[name][0]) == expected[name][1]
