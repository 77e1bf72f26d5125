"""Rows of word embeddings in fewer bits: how far they are off, which kind is taken, and what old records mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.compress import rows
from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.export.onnx.words import quantize_blocks
from attar.runtime.errors import SettingsError
from tests.models import EDGE_TEXTS, make_student


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("rows") / "bert", hidden=120, heads=5)


def unpacked(packed: np.ndarray, scale: np.ndarray, width: int) -> np.ndarray:
    """What the nibbles say, low before high, counted from 8."""
    values = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)[:, :width].astype(np.float32) - 8
    return values * np.repeat(scale, 32, axis=1)[:, :width]


@given(st.integers(0, 10_000), st.integers(1, 100), st.floats(1e-4, 1e4))
@settings(max_examples=60)
def test_int4_is_off_by_half_a_step_of_its_block(seed: int, width: int, size: float) -> None:
    table = (np.random.default_rng(seed).standard_normal((5, width)) * size).astype(np.float32)
    table[3] = 0
    packed, scale = quantize_blocks(table)
    assert packed.dtype == np.uint8 and packed.shape == (5, (width + 1) // 2)
    assert scale.dtype == np.float32 and scale.shape == (5, (width + 31) // 32)
    step = np.repeat(scale, 32, axis=1)[:, :width]
    found = unpacked(packed, scale, width)
    assert (np.abs(found - table) <= step / 2 * (1 + 1e-4)).all()
    assert (found[3] == 0).all()
    for block in range(0, width, 32):  # the largest of a block is exact
        largest = np.abs(table[:, block : block + 32]).max(axis=1)
        assert np.abs(found[:, block : block + 32]).max(axis=1) == pytest.approx(largest, rel=1e-5)


def test_the_engine_reads_what_was_written(student: Student) -> None:
    """With every matrix in fp32 an int4 file answers as a student does whose table was rounded by hand."""
    plan = replace(rows.plan_of(student), words="int4")
    by_hand = student.copy()
    table = by_hand.encoder.words.weight.data
    table.copy_(table.new_tensor(unpacked(*quantize_blocks(table.numpy()), table.shape[1])))
    encoded = student.encode(EDGE_TEXTS)
    found = in_memory(replace(student, plan=plan.to_json()), threads=1).outputs(encoded)
    assert np.abs(found["logits"] - by_hand.outputs(encoded)["logits"]).max() < 1e-4
    assert np.abs(found["logits"] - student.outputs(encoded)["logits"]).max() > 1e-3


def test_each_kind_has_its_size(student: Student) -> None:
    vocab, hidden = student.encoder.words.weight.shape
    plan = rows.plan_of(student)
    fp32, int8, int4 = (
        len(to_onnx(replace(student, plan=replace(plan, words=kind).to_json()))) for kind in ("fp32", "int8", "int4")
    )
    assert fp32 == pytest.approx(len(to_onnx(student)), abs=50)
    assert fp32 - int8 == pytest.approx(vocab * (3 * hidden - 4), abs=400)
    # Half a byte a value, and four bytes for each of the four blocks of a row.
    assert fp32 - int4 == pytest.approx(vocab * (3.5 * hidden - 16), abs=400)


def context(points: Mapping[str, float]) -> Any:
    return SimpleNamespace(score=lambda s: points[rows.plan_of(s).words])


@pytest.mark.parametrize(
    ("points", "taken"),
    [
        ({"fp32": 90.0, "int8": 90.0, "int4": 89.6}, "int4"),
        ({"fp32": 90.0, "int8": 89.9, "int4": 88.0}, "int8"),
        ({"fp32": 90.0, "int8": 89.0, "int4": 88.0}, "fp32"),
    ],
)
def test_the_smallest_that_holds_is_taken(points: dict[str, float], taken: str, student: Student) -> None:
    found = rows.apply(student, rows.Settings(), context(points))
    assert rows.plan_of(found).words == taken
    assert (found.plan is None) == (taken == "fp32")


def test_the_rest_of_a_plan_stays(student: Student) -> None:
    plan = QuantPlan({"layers.0.query": 0.25}, full=("layers.1.ffn_in",))
    points = {"int8": 90.0, "int4": 90.0}
    found = rows.apply(replace(student, plan=plan.to_json()), rows.Settings(), context(points))
    assert QuantPlan.from_json(found.plan) == replace(plan, words="int4")
    again = rows.apply(found, rows.Settings(), context(points))
    assert again.plan == found.plan and again.lineage[-1]["loss_points"] == {}


def test_records_of_earlier_students_are_read(student: Student, tmp_path: Path) -> None:
    record = QuantPlan().to_json()
    for old, new in ((True, "int8"), (False, "fp32"), ("int4", "int4")):
        plan = QuantPlan.from_json(record | {"words": old})
        assert plan is not None and plan.words == new
        assert QuantPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    with pytest.raises(SettingsError, match="words must be one of fp32, int8, int4, not 'int2'"):
        QuantPlan.from_json(record | {"words": "int2"})
    before = to_onnx(replace(student, plan=record | {"words": True}))
    assert before == to_onnx(replace(student, plan=QuantPlan().to_json()))


@pytest.mark.parametrize("kinds", [(), ("fp32",), ("int2",)])
def test_rows_that_mean_nothing_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=r"unknown rows .*; known: int8, int4"):
        rows.Settings(rows=kinds)
