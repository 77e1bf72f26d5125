"""The quick way through short texts gives what the general way gives, bit for bit where floats allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.runtime.tasks.spans import tags_of
from attar.runtime.tasks.tokens import TokenClassification
from tests import models

TAGS = tags_of(("a", "b"))
TASK = TokenClassification(TAGS, max_length=24, stride=6, aggregation="word")
READER = TASK.reader(models.tokenizer().to_str().encode(), 0)

some_text = st.one_of(
    st.lists(st.sampled_from((*models.NOISE, "dull-plot", "film,", "🎉", "東京", "e\u0301")), max_size=40).map(
        " ".join
    ),
    st.text(max_size=25),
    st.sampled_from(models.EDGE_TEXTS),
)


@given(st.lists(some_text, max_size=6), st.integers(0, 1000))
def test_quick_and_general_agree(texts: list[str], seed: int) -> None:
    encoded = TASK.encode(READER, texts)
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(len(row), len(TAGS))).astype(np.float32) for row in encoded.ids]
    if not texts:
        return
    quick = TASK.answers(encoded, {"logits": logits})
    assert encoded.windows is not None
    general = TASK.answers(replace(encoded, windows=list(encoded.windows)), {"logits": logits})
    assert len(quick) == len(general) == len(texts)
    for mine, theirs in zip(quick, general, strict=True):
        assert [(e.label, e.start, e.end, e.text) for e in mine] == [(e.label, e.start, e.end, e.text) for e in theirs]
        assert [e.score for e in mine] == pytest.approx([e.score for e in theirs], abs=1e-6)


@given(st.lists(some_text, min_size=1, max_size=5), st.integers(0, 4), st.integers(0, 1000))
def test_alone_and_together_agree(texts: list[str], mine: int, seed: int) -> None:
    mine %= len(texts)
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(500, len(TAGS))).astype(np.float32)

    def answers(some: list[str]) -> list[list[object]]:
        encoded = TASK.encode(READER, some)
        return TASK.answers(encoded, {"logits": [table[row] for row in encoded.ids]})

    assert answers(texts)[mine] == answers([texts[mine]])[0]
