"""Your answer never depends on your neighbours: other texts and padding change no bit, in any kind of task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.runtime.model import Model
from attar.runtime.tasks.base import jsonable
from attar.runtime.tokenizer import Encoded, pad
from tests.export.plans import Make, maker, planned
from tests.models import (
    EDGE_TEXTS,
    KINDS,
    MAX_LENGTH,
    NOISE,
    add_pooling,
    corpus,
    inputs,
    make_checkpoint,
    make_student,
)

SCHEMES = pytest.mark.parametrize("scheme", ["fp32", "per_token", "static"])
Found = Mapping[str, NDArray[np.float32]]

some_text = st.one_of(
    st.lists(st.sampled_from((*NOISE, "dull", "superb", "film")), max_size=60).map(" ".join),
    st.text(max_size=30),
    st.sampled_from(EDGE_TEXTS),
)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Wide enough for the engine's vectorised kernels and their remainders."""
    return maker(tmp_path_factory.mktemp("wide"), hidden=120, ffn=200, heads=5)


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """As wide, and attention has a bias for every distance."""
    return maker(tmp_path_factory.mktemp("relative"), "mpnet", hidden=120, ffn=200, heads=5)


def run(model: Model, encoded: Encoded, rows: list[int], length: int = 0) -> list[Found]:
    """The outputs of each of the rows, computed in one batch of at least this length; padding left out."""
    types = None if encoded.types is None else pad([encoded.types[i] for i in rows], 0, length)[0]
    found = model.engine.run(*pad([encoded.ids[i] for i in rows], model.tokenizer.pad_id, length), types)
    return [
        {
            h.name: found[h.name][place, : len(encoded.ids[i])] if h.reads == "tokens" else found[h.name][place]
            for h in model.task.heads
        }
        for place, i in enumerate(rows)
    ]


def same(a: Found, b: Found) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def check_neighbours(model: Model, kind: str, examples: int) -> None:
    """Whatever stands beside a text, or behind it as padding: its outputs and its answer have the same bits."""

    @settings(max_examples=examples)
    @given(st.lists(some_text, min_size=1, max_size=12), st.integers(1, MAX_LENGTH), st.integers(0, 99))
    def check(texts: list[str], length: int, mine: int) -> None:
        given_texts = inputs(kind, tuple(texts))
        encoded = model.task.encode(model.tokenizer, given_texts)
        mine %= len(encoded.ids)
        (expected,) = run(model, encoded, [mine])
        assert all(np.isfinite(values).all() for values in expected.values())
        assert same(run(model, encoded, [mine], length)[0], expected)
        assert same(run(model, encoded, list(range(len(encoded.ids))), length)[mine], expected)
        outputs = model.outputs(encoded)
        assert same({name: rows[mine] for name, rows in outputs.items()}, expected)
        text = mine % len(texts)
        assert jsonable(model.answer(given_texts)[text]) == jsonable(model.answer([given_texts[text]])[0])

    check()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["narrow", "wide", "relative"])
@SCHEMES
def test_neighbours_and_padding_change_no_bit(
    scheme: str, size: str, kind: str, request: pytest.FixtureRequest
) -> None:
    model = in_memory(planned(request.getfixturevalue(size)(kind), scheme, kind), threads=1)
    check_neighbours(model, kind, 25 if kind == "text-classification" else 12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["wide", "relative"])
@SCHEMES
def test_every_padding_gives_the_same_bits(scheme: str, size: str, kind: str, request: pytest.FixtureRequest) -> None:
    model = in_memory(planned(request.getfixturevalue(size)(kind), scheme, kind), threads=2)
    for text in inputs(kind, ("", "a dull film", " ".join(NOISE))):
        encoded = model.task.encode(model.tokenizer, [text])
        (expected,) = run(model, encoded, [0])
        for length in range(len(encoded.ids[0]), MAX_LENGTH + 1):
            assert same(run(model, encoded, [0], length)[0], expected), length
        for count in range(2, 20):
            assert all(same(found, expected) for found in run(model, encoded, [0] * count)), count


@pytest.mark.parametrize("scheme", ["7 bits", "smooth", "int8 weights", "int4 weights", "fp16", "bf16"])
def test_other_schemes_change_no_bit_either(scheme: str, wide: Make) -> None:
    check_neighbours(in_memory(planned(wide("multi-task"), scheme, "multi-task"), threads=1), "multi-task", 8)


def test_relu_changes_no_bit_either(tmp_path: Path) -> None:
    student = make_student(tmp_path / "m", hidden=120, ffn=200, heads=5, hidden_act="relu")
    check_neighbours(in_memory(planned(student, "per_token"), threads=1), "text-classification", 12)


@pytest.mark.parametrize("kind", ["text-classification", "token-classification", "embeddings"])
def test_long_rows_whose_far_distances_share_a_bias(kind: str, tmp_path: Path) -> None:
    longest = 200
    student = make_student(tmp_path / "m", "mpnet", kind=kind, hidden=120, heads=5, max_position_embeddings=longest + 2)
    model = in_memory(replace(student, task=replace(student.task, max_length=longest)), threads=2)  # type: ignore[call-arg]
    texts = tuple(" ".join(NOISE * count) for count in (2, 9, 12, 20))
    encoded = model.task.encode(model.tokenizer, texts)
    lengths = [len(row) for row in encoded.ids]
    assert 128 < lengths[1] < lengths[2] < lengths[3] == longest
    alone = [run(model, encoded, [i])[0] for i in range(len(texts))]
    assert all(same(a, b) for a, b in zip(run(model, encoded, [0, 1, 2, 3]), alone, strict=True))
    for i in (0, 1, 2):
        for length in range(lengths[i] + 1, longest + 1, 7):
            assert same(run(model, encoded, [i], length)[0], alone[i]), (i, length)


# --- heads of real sizes ------------------------------------------------------------------------------------------

NAMES = tuple(f"class {i}" for i in range(150))
REAL: dict[str, dict[str, Any]] = {
    "text-classification": {"labels": NAMES},
    "multi-label": {"labels": NAMES},
    "token-classification": {"labels": ("O", *(f"{p}-{i}" for i in range(20) for p in "BI"))},
    "question-answering": {},
    "embeddings, mean": {"mode": "mean_tokens"},
    "embeddings, max": {"mode": "max_tokens"},
}


def real_sized(folder: Path, kind: str, labels: tuple[str, ...] | None = None, mode: str = "") -> Student:
    """384 wide, with one layer: what is asked here is asked of the heads."""
    base = kind.partition(",")[0]
    make_checkpoint(folder, kind=base, hidden=384, ffn=64, heads=12, layers=1, labels=labels)
    if mode:
        add_pooling(folder, 384, mode)
    return Student.load(folder)


@pytest.mark.parametrize("kind", REAL)
@pytest.mark.parametrize("threads", [1, 2])
def test_real_heads_in_batches_of_every_size(threads: int, kind: str, tmp_path: Path) -> None:
    model = in_memory(real_sized(tmp_path / "m", kind, **REAL[kind]), threads=threads)
    texts = corpus(kind.partition(",")[0], 40, seed=2).texts
    encoded = model.task.encode(model.tokenizer, texts)
    alone = [run(model, encoded, [i])[0] for i in range(40)]
    for size in range(2, 41):
        assert all(same(a, b) for a, b in zip(run(model, encoded, list(range(size))), alone, strict=False)), size
    for i in (0, 1, 2):
        for length in range(len(encoded.ids[i]) + 1, MAX_LENGTH + 1, 3):
            assert same(run(model, encoded, [i], length)[0], alone[i]), (i, length)
            assert same(run(model, encoded, [i, 3, 4], length)[0], alone[i]), (i, length)
