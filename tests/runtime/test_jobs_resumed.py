"""Jobs that were killed: they go on where they were to the same bytes, and refuse what has changed since."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.runtime.errors import SettingsError
from attar.runtime.jobs import Settings, answer_file, work, writing
from attar.runtime.model import Model, load
from tests.fixtures_bundle import make_tiny_bundle
from tests.runtime.job_files import ANSWERS, TEXTS, read, write


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("jobs") / "tiny")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1)


class Killed(BaseException):
    """What no handler of errors sees."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same 24 rows as files of each kind, some of them bad."""
    folder = tmp_path_factory.mktemp("sources")
    words = ["good", "bad", "film", "", "the dull", "great " * 30]
    rows = [{"id": str(i), "text": words[i * i % 6] if i % 7 else ""} for i in range(24)]
    for ending in (".parquet", ".jsonl", ".csv"):
        write(folder / f"x{ending}", rows)
    return folder


def mortal(patch: pytest.MonkeyPatch, life: int) -> None:
    """Lets a job do `life` things to its files or with its model before it is killed, in the middle of a write."""
    left = [life]

    def fatal() -> bool:
        left[0] -= 1
        return left[0] < 0

    def append(file: Any, data: bytes) -> None:
        file.write(data[: len(data) // 2] if (dead := fatal()) else data)
        file.flush()
        if dead:
            raise Killed

    def wrapped(what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if fatal():
                raise Killed
            return what(*arguments, **named)

        return call

    patch.setattr(work, "append", append)
    patch.setattr(os, "replace", wrapped(os.replace))
    patch.setattr(Path, "unlink", wrapped(Path.unlink))
    patch.setattr(Model, "answer", wrapped(Model.answer))


@settings(max_examples=15)
@given(
    kills=st.lists(st.integers(0, 20), max_size=3),
    chunks=st.lists(st.integers(1, 30), min_size=4, max_size=4),
    endings=st.sampled_from(
        [(".parquet", ".parquet"), (".jsonl", ".csv"), (".csv", ".parquet"), (".parquet", ".jsonl")]
    ),
    on_error=st.sampled_from(["skip", "null"]),
)
def test_the_bytes_are_the_same_after_any_kills_and_with_any_chunks(
    model: Model, sources: Path, kills: list[int], chunks: list[int], endings: tuple[str, str], on_error: Any
) -> None:
    source = sources / f"x{endings[0]}"
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as always:
        always.setattr(writing, "GROUP", 7)
        always.setattr(os, "fsync", lambda _: None)
        whole, target = Path(name, f"whole{endings[1]}"), Path(name, f"y{endings[1]}")
        answer_file(model, source, whole, Settings(on_error=on_error, chunk=1000))
        for life, chunk in zip([*kills, 10**6], chunks, strict=False):
            if target.exists():
                break  # killed after its last deed
            with pytest.MonkeyPatch.context() as patch:
                mortal(patch, life)
                try:
                    answer_file(model, source, target, Settings(on_error=on_error, chunk=chunk))
                except Killed:
                    assert life < 10**6
        assert target.read_bytes() == whole.read_bytes()


CHILD = """
import os, signal, sys
from attar.runtime.jobs import Settings, answer_file
from attar.runtime.model import load
def kill(now):
    if now.read >= 12:
        os.kill(os.getpid(), signal.SIGKILL)
answer_file(load(sys.argv[1], threads=1), sys.argv[2], sys.argv[3], Settings(on_error="skip", chunk=5), kill)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_process_that_was_killed_goes_on(bundle: Path, model: Model, sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "y.parquet"
    done = subprocess.run([sys.executable, "-c", CHILD, bundle, sources / "x.parquet", target], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert not target.exists() and (tmp_path / "y.parquet.job").is_dir()
    found = answer_file(model, sources / "x.parquet", target, Settings(on_error="skip"))
    assert 12 <= found.before <= 16 and found.read == 24
    answer_file(model, sources / "x.parquet", tmp_path / "whole.parquet", Settings(on_error="skip"))
    assert target.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.parquet", "y.parquet"]


@pytest.fixture
def begun(model: Model, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A job that was killed after 2 of 4 rows: its input and output."""
    source = write(tmp_path / "x.jsonl", [{"text": text, "other": "dull"} for text in TEXTS[:4]])

    def kill(_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        answer_file(model, source, tmp_path / "y.jsonl", Settings(chunk=2), kill)
    yield source, tmp_path / "y.jsonl"


def test_it_goes_on_where_it_was(model: Model, begun: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int, int]] = []
    found = answer_file(model, *begun, Settings(chunk=1), lambda now: seen.append((now.before, now.read, now.total)))
    assert seen == [(2, 3, 4), (2, 4, 4)]
    assert (found.before, found.written) == (2, 4)
    assert [row["label"] for row in read(begun[1])] == [label for label, _, _ in ANSWERS[:4]]


def test_another_job_is_not_gone_on_with(model: Model, begun: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = begun
    with pytest.raises(SettingsError, match=r"began with other settings.*--overwrite begins anew"):
        answer_file(model, source, target, Settings(column="other"))
    other = load(make_tiny_bundle(tmp_path / "other", name="other"), threads=1)
    with pytest.raises(SettingsError, match=r"began with another bundle"):
        answer_file(other, source, target)
    content = source.read_bytes()
    source.write_bytes(content.replace(b"awful", b"great"))
    with pytest.raises(SettingsError, match=r"the input file has changed since the job began"):
        answer_file(model, source, target)
    source.write_bytes(content)
    assert answer_file(model, source, target).before == 2


def test_overwrite_begins_another_job_anew_and_goes_on_with_the_same(model: Model, begun: tuple[Path, Path]) -> None:
    source, target = begun
    found = answer_file(model, source, target, Settings(column="other", overwrite=True))
    assert found.before == 0
    assert {row["label"] for row in read(target)} == {"negative"}


def test_the_same_job_with_overwrite_goes_on(model: Model, begun: tuple[Path, Path]) -> None:
    assert answer_file(model, *begun, Settings(overwrite=True)).before == 2


def test_rows_that_were_lost_are_noticed(model: Model, begun: tuple[Path, Path]) -> None:
    rows = begun[1].with_name("y.jsonl.job") / "rows"
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(SettingsError, match="the rows of the job are damaged"):
        answer_file(model, *begun)


def test_on_error_may_not_change_once_there_was_a_bad_row(model: Model, tmp_path: Path) -> None:
    source, target = write(tmp_path / "x.jsonl", [{"text": ""}, {"text": "good"}]), tmp_path / "y.jsonl"

    def kill(_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        answer_file(model, source, target, Settings(chunk=1, on_error="skip"), kill)
    with pytest.raises(SettingsError, match="met bad rows, and began with --on-error skip"):
        answer_file(model, source, target, Settings(on_error="null"))


@pytest.mark.skipif(sys.platform == "win32", reason="locks are for POSIX")
def test_two_processes_are_not_at_one_job(model: Model, begun: tuple[Path, Path]) -> None:
    def second(_: object) -> None:
        with pytest.raises(SettingsError, match="another process is at this job"):
            answer_file(model, *begun)

    assert answer_file(model, *begun, Settings(chunk=2), second).written == 4
