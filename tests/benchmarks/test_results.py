"""benchmarks/RESULTS.md says what the records say, and a record says where its numbers come from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.record import Record, cells

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"cpu": "Zen 4", "cores": 2, "instruction_sets": "avx2", "os": "Linux 6 x86_64", "python": "3.11.7"}


def record(folder: Path, **changes: object) -> Path:
    fields = {"command": "python benchmarks/x.py", "date": "2026-11-24", "machine": MACHINE, "versions": {"numpy": "2"}}
    made = Record("A table", ("name", "speed"), (("a | b", "1.5"), ("c", "2")), "Measured twice.", {"n": 1}, **fields)
    path = folder / "table.json"
    made.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_the_page_has_the_table_and_what_belongs_to_its_numbers(tmp_path: Path) -> None:
    record(tmp_path)
    assert results.main(["--records", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert page.endswith(
        "## A table\n\n| name | speed |\n|---|---|\n| a / b | 1.5 |\n| c | 2 |\n\nMeasured twice.\n\n"
        "2026-11-24; Zen 4, 2 cores (avx2), Linux 6 x86_64; Python 3.11.7; numpy 2. Record: `results/table.json`.\n\n"
        "    python benchmarks/x.py\n"
    )


def test_a_page_that_is_out_of_date_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path)
    given = ["--records", str(tmp_path), "--out", str(tmp_path / "page.md")]
    assert results.main([*given, "--check"]) == 1
    results.main(given)
    assert results.main([*given, "--check"]) == 0
    record(tmp_path, note="Measured thrice.")
    assert results.main([*given, "--check"]) == 1
    assert "run python benchmarks/results.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [["a"]]}, "table.json: ['a'] has 1 cells for 2 columns"),
        (None, "table.json has no title; run its benchmark again with --json"),
    ],
)
def test_a_broken_record_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object] | None, message: str
) -> None:
    path = record(tmp_path, **(changes or {}))
    if changes is None:
        path.write_text("[]")
    assert results.main(["--records", str(tmp_path), "--out", str(tmp_path / "page.md")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


def test_a_record_names_its_command_from_the_root_and_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "x.py"), "--rounds", "9", "two words"])
    Record("A table", ("name",), (("a",),)).write(tmp_path / "new" / "table.json")
    found = json.loads((tmp_path / "new" / "table.json").read_text())
    assert found["command"] == "python benchmarks/x.py --rounds 9 'two words'"
    assert found["machine"]["cores"] >= 1 and found["versions"]["attar"] and len(found["date"]) == 10


def test_cells_of_a_printed_row() -> None:
    assert cells("| a | 1.0 [0.9, 1.1] | |") == ["a", "1.0 [0.9, 1.1]", ""]


def test_the_page_in_the_repository_is_up_to_date() -> None:
    assert results.main(["--check"]) == 0
    for name, found in results.read(ROOT / "benchmarks" / "results"):
        assert found["command"].startswith("python benchmarks/"), name
        assert not any(part.startswith("/") for part in found["command"].split()), name
