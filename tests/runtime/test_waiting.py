"""The line of requests by itself: when a batch waits, and limits that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from attar.runtime.errors import SettingsError
from attar.runtime.waiting import Limits, Line


def test_when_a_batch_waits_for_company() -> None:
    line = Line(Limits(batch_tokens=100, linger=60.0), 50.0)
    texts = ["x" * 10] * 4
    assert line.add(line.request(texts, None))  # the first one wakes a worker, at 4 * (2 + 10 * 0.3) = 20 tokens
    assert line.tokens == 20
    assert line.linger() <= 0  # nothing is being computed
    batch = line.take()
    assert not any([line.add(line.request(texts, None)) for _ in range(3)][1:])
    assert 59 < line.linger() <= 60  # beside another batch only a full one is worth its while
    line.add(line.request(texts, None))
    assert line.add(line.request(texts, None))  # now it is full: 100 tokens
    assert line.linger() <= 0
    line.done(batch, 20, 0.1)
    assert line.expected_wait == pytest.approx(100 / 200)  # 20 tokens in 0.1 s are 200 a second
    batch = line.take()
    line.done(batch, 100, 600.0)
    line.add(line.request(texts, None))
    assert 59 < line.linger() <= 60  # a tenth of the time of five senders, who may come back
    line.take()
    line.done([], 20, 600.0)
    line.add(line.request(texts, None))
    assert line.linger() <= 0  # a lone sender is not waited for


@pytest.mark.parametrize(
    "limits", [{"at_once": 0}, {"batch_tokens": 1.5}, {"linger": -1}, {"max_wait": float("nan")}, {"max_requests": 0}]
)
def test_impossible_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(limits))):
        Limits(**limits)
