"""Steps look at texts from all over the training data, which may be sorted by class."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.distill.step import Context, spread
from attar.runtime.data import Examples


@given(total=st.integers(0, 300), count=st.integers(0, 300))
def test_places_are_different_in_order_and_evenly_apart(total: int, count: int) -> None:
    found = spread(total, count)
    assert len(found) == min(total, count) and found == sorted(set(found)) and set(found) <= set(range(total))
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def context(texts: list[str]) -> Context:
    parts: dict[str, Any] = dict.fromkeys(Context.__dataclass_fields__)
    return Context(**{**parts, "train": Examples(tuple(texts), None, "made up")})


def test_of_sorted_classes_every_one_is_seen() -> None:
    sorted_by_class = [f"{label} {i}" for label in "abcdef" for i in range(100)]
    seen = context(sorted_by_class).some(12)
    assert len(seen) == 12 and {text[0] for text in seen} == set("abcdef")


@pytest.mark.parametrize(("count", "expected"), [(2, [0, 3]), (9, [0, 1, 3, 4])])
def test_rows_are_those_of_training_texts(count: int, expected: list[int]) -> None:
    """Four rows of two training texts, the first cut into windows 0 and 1, and row 2 and 5 of others."""
    encoded = SimpleNamespace(owners=[0, 0, 2, 1, 1, 3])
    taught = cast(Any, SimpleNamespace(encoded=encoded))
    assert context(["a", "b"]).some_rows(taught, count) == expected
