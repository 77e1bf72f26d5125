"""The PyTorch baseline of a benchmark: it answers as the imported model does, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.distill.bench_worker import TorchSystem
from attar.pipeline.outside import load_any
from tests.models import FAMILIES, make_checkpoint, sentences


@pytest.mark.parametrize("family", [*FAMILIES, "modernbert", "albert"])
def test_it_answers_with_the_librarys_own_attention(family: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / family, family)
    system = TorchSystem(folder, 1, None)
    # MPNet has no attention but the plain one; all others have the fused one.
    assert ("sdpa" in system.kind) == (family != "mpnet")
    texts = [str(t) for t in sentences(12).texts]
    for mine, theirs in zip(system.many(texts), load_any(folder).answer(texts), strict=True):
        assert mine.label == theirs.label
        assert mine.score == pytest.approx(theirs.score, abs=1e-5)
