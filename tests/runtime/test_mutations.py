"""Random damage of bundles, a few hundred times on every run; benchmarks/mutations.py does it ten thousand times."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutation_kinds import KINDS
from benchmarks.mutations import EARLY, SAME, run, wrong
from tests.fixtures_bundle import make_tiny_bundle


@pytest.mark.parametrize("first", [0, 150])
def test_no_damage_is_accepted_and_none_does_harm(first: int, tmp_path: Path) -> None:
    done = run(make_tiny_bundle(tmp_path / "bundle"), 20, range(first, first + 150), None)
    assert [record for record in done if wrong(record)] == []
    assert [record["number"] for record in done] == list(range(first, first + 150))
    assert {record["kind"] for record in done} == set(KINDS)
    # What is not meant to deceive never gets as far as a parser.
    honest = [record for record in done if KINDS[record["kind"]].of in ("sealed", "resealed")]
    assert len(honest) > 70 and {record["outcome"] for record in honest} == {EARLY}
    assert {record["outcome"] for record in done if KINDS[record["kind"]].of == "zipped"} <= {EARLY, SAME}
