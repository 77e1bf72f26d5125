"""Optimisation profiles: tuned for the lengths seen, and wide enough for every batch that a model makes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.runtime.engines.profiles import Profile, choose, digest, profiles_for
from attar.runtime.errors import SettingsError

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=40)


def test_profiles_follow_the_lengths() -> None:
    # Of 1..10 ten times: the median (higher) is 6, the 90th percentile 10; the model reads 32.
    found = profiles_for([*range(1, 11)] * 10, 32, max_batch=64, batch_tokens=128)
    assert [(p.least, p.longest) for p in found] == [(1, 6), (7, 10), (11, 32)]
    # Batches of at most 128 tokens: 128 rows of 1 token, but 64 at most; 128 // 7; 128 // 11.
    assert [p.batch for p in found] == [64, 18, 11]
    # The usual length is the median of those inside; none was longer than 10, so there it is the longest.
    assert [p.usual for p in found] == [(42, 3), (16, 8), (4, 32)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(LENGTHS, st.integers(3, 512), st.integers(1, 300), st.integers(1, 512))
def test_every_batch_of_a_model_has_a_profile(seen: list[int], longest: int, rows: int, length: int) -> None:
    found = profiles_for(seen, longest, max_batch=256)
    length = min(length, longest)
    # What `Model._batches` holds to: at most 1024 tokens and 256 rows, or a single row.
    rows = max(1, min(rows, 1024 // length, 256))
    assert found[choose(found, rows, length)].holds(rows, length)
    assert all(p.holds(*p.usual) for p in found)
    assert [p.least for p in found] == [1, *(p.longest + 1 for p in found[:-1])] and found[-1].longest == longest


def test_beyond_the_profiles() -> None:
    found = (Profile(1, 8, 4, (2, 6)), Profile(9, 16, 2, (1, 12)))
    assert [choose(found, 4, 8), choose(found, 2, 9)] == [0, 1]
    with pytest.raises(SettingsError, match="a row of 17 tokens is longer than the engine's 16: cut the texts"):
        choose(found, 1, 17)
    with pytest.raises(SettingsError, match=r"3 rows of 9 tokens is larger than the engine's 2 rows .*smaller batches"):
        choose(found, 3, 9)
    with pytest.raises(SettingsError, match="there are none: give some"):
        profiles_for([], 16, max_batch=4)


def test_profiles_are_told_apart() -> None:
    one = Profile(1, 8, 4, (2, 6))
    assert digest([one]) == digest([Profile.from_json({"least": 1, "longest": 8, "batch": 4, "usual": [2, 6]})])
    assert digest([one]) != digest([Profile(1, 8, 5, (2, 6))])
