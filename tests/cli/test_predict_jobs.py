"""`attar predict --input --output`, as a user types it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from attar.cli import jobs, main
from attar.runtime.jobs import Progress
from tests.fixtures_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("cli") / "tiny")


def test_a_file_into_a_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "x.csv", tmp_path / "y.jsonl"
    source.write_text("id,body\n1,good\n2,\n3,dull\n")
    command = ["predict", str(bundle), "--input", str(source), "--output", str(target), "--threads", "1"]
    command += ["--column", "body", "--prefix", "film_"]
    assert main(command) == 2
    assert "x.csv: line 3: the text in column 'body' is empty" in capsys.readouterr().err
    assert main([*command, "--on-error", "null", "--chunk", "2"]) == 0
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"{target}: 3 rows; 1 bad, first {source}: line 3: the text in column 'body' is empty")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["id"], row["film_label"]) for row in rows] == [("1", "positive"), ("2", None), ("3", "negative")]
    assert main([*command, "--on-error", "null"]) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip", "--overwrite"]) == 0
    assert len(target.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "x.csv"], "--input FILE and --output FILE go together"),
        (["--output", "y.csv"], "--input FILE and --output FILE go together"),
        (["good", "--input", "x.csv", "--output", "y.csv"], "give either --input, or texts or --data"),
        (["--data", "x.csv", "--input", "x.csv", "--output", "y.csv"], "give either --input, or texts or --data"),
        (["good", "--on-error", "skip"], "--on-error is for --input and --output, which are missing"),
        (["good", "--overwrite"], "--overwrite is for --input and --output, which are missing"),
    ],
)
def test_arguments_that_do_not_go_together(
    bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["predict", str(bundle), *arguments]) == 2
    assert words in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    # 30 rows of this process in 10 seconds, 3 a second: the 6,000 others take 2,000 s.
    now = Progress(total=6_130, read=130, before=100, written=129, seconds=10.0, bad=1, first_bad="line 7")
    screen = Terminal()
    meter = jobs.Meter(screen)
    meter(now)
    assert screen.getvalue() == "\r\x1b[K130 of 6130 rows, 3 rows/s, 0:33:20 left, 1 bad"
    meter.end()
    assert screen.getvalue().endswith("\r\x1b[K")

    clock = [1000.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: clock[0])
    log = io.StringIO()
    meter = jobs.Meter(log)
    for clock[0] in (1001.0, 1029.0, 1031.0, 1040.0, 1062.0):
        meter(now)
    assert log.getvalue() == "130 of 6130 rows, 3 rows/s, 0:33:20 left, 1 bad\n" * 2
