"""Jobs over files: what is written, bad rows, and that a killed job goes on to the same bytes."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.jobs import Settings, answer_file, work, writing
from attar.runtime.model import Model, load
from tests.fixtures_bundle import make_tiny_bundle

TEXTS = ["a good film", "the awful dull film", 'fine, "great"\nand good', "zoqx", "good " * 20]
ANSWERS = [("positive", 0.7310586, False), ("negative", 0.8807971, False), ("positive", 0.9525741, False)]
ANSWERS += [("negative", 0.5, False), ("positive", 0.9999997, True)]
"""By hand: 1 / (1 + exp(-k)) of k = 1, 2, 3 and 0 words, and of 15, which is what 16 tokens leave of 20."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("jobs") / "tiny")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the file that the ending says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file by readers of others."""
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab" if path.suffix == ".tsv" else "excel"))


@pytest.mark.parametrize("given", [".parquet", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize("wanted", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_columns_are_kept_and_answers_added(model: Model, tmp_path: Path, given: str, wanted: str) -> None:
    rows = [{"id": i, "text": text, "note": "東京 🎉"} for i, text in enumerate(TEXTS)]
    target = tmp_path / f"y{wanted}"
    answer_file(model, write(tmp_path / f"x{given}", rows), target, Settings(chunk=2))
    found = read(target)
    assert [list(row) for row in found] == [["id", "text", "note", "label", "score", "truncated"]] * len(rows)
    texts = given in (".csv", ".tsv") or wanted in (".csv", ".tsv")  # where everything is text
    assert [row["id"] for row in found] == [str(i) if texts else i for i in range(len(rows))]
    assert [(row["text"], row["note"]) for row in found] == [(row["text"], row["note"]) for row in rows]
    assert [row["label"] for row in found] == [label for label, _, _ in ANSWERS]
    assert [float(row["score"]) for row in found] == pytest.approx([score for _, score, _ in ANSWERS], abs=1e-6)
    assert [json.loads(str(row["truncated"]).lower()) for row in found] == [cut for _, _, cut in ANSWERS]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("y")] == [target.name]


def test_a_text_a_line(model: Model, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("\ufeffgood\r\nbad\u2028film\n\n\n".encode())
    answer_file(model, tmp_path / "x.txt", tmp_path / "y.jsonl")
    found = (tmp_path / "y.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [(json.loads(line)["text"], json.loads(line)["label"]) for line in found] == [
        ("good", "positive"),
        ("bad\u2028film", "negative"),
    ]


def test_parquet_keeps_its_types(model: Model, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["good", "bad"]).dictionary_encode(),
            "when": pa.array([datetime.datetime(2026, 1, 2), None], pa.timestamp("ns", "UTC")),
            "price": pa.array([decimal.Decimal("1.50"), None], pa.decimal128(9, 2)),
            "image": pa.array([b"\x00\xff", None]),
            "nested": pa.array([[{"a": 1}], []]),
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    answer_file(model, tmp_path / "x.parquet", tmp_path / "y.parquet")
    found = pq.read_table(tmp_path / "y.parquet")
    kept = found.select(["when", "price", "image", "nested"])
    assert kept.schema.types == table.select(kept.column_names).schema.types
    assert kept.to_pylist() == table.select(kept.column_names).to_pylist()
    assert found["text"].to_pylist() == ["good", "bad"] and found["label"].to_pylist() == ["positive", "negative"]
    with pytest.raises(DataError, match=r"'image' is of type binary.*only \.parquet can hold"):
        answer_file(model, tmp_path / "x.parquet", tmp_path / "y.jsonl")
    pq.write_table(table.drop_columns("image"), tmp_path / "z.parquet")
    answer_file(model, tmp_path / "z.parquet", tmp_path / "z.jsonl")
    first, second = read(tmp_path / "z.jsonl")
    assert (first["when"][:10], first["price"], first["nested"]) == ("2026-01-02", "1.50", [{"a": 1}])
    assert (second["when"], second["price"], second["nested"]) == (None, None, [])


def test_json_lines_of_different_keys_and_values(model: Model, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "good", "n": 1, "mixed": 1, "flag": True, "big": 2**70},
        {"n": 2.5, "text": "bad", "mixed": "one", "late": [1, {"a": None}]},
        {"text": "fine", "n": None, "half": "\ud83c"},
    ]
    source = write(tmp_path / "x.jsonl", rows)
    answer_file(model, source, tmp_path / "y.jsonl")
    assert [
        {k: row[k] for k in row if k in before} for row, before in zip(read(tmp_path / "y.jsonl"), rows, strict=True)
    ] == rows
    answer_file(model, source, tmp_path / "y.parquet")
    first, second, third = read(tmp_path / "y.parquet")
    assert (first["n"], first["mixed"], first["flag"], first["big"]) == (1.0, "1", True, str(2**70))
    assert (second["n"], second["mixed"], second["flag"], second["late"]) == (2.5, '"one"', None, '[1, {"a": null}]')
    assert (third["n"], third["half"], third["label"]) == (None, "\ufffd", "positive")
    answer_file(model, source, tmp_path / "y.csv")
    assert [row["late"] for row in read(tmp_path / "y.csv")] == ["", '[1, {"a": null}]', ""]


def test_a_number_that_json_does_not_have_is_null(model: Model, tmp_path: Path) -> None:
    source = write(tmp_path / "x.parquet", [{"text": "good", "n": float("nan"), "m": [float("inf"), 1.0]}])
    answer_file(model, source, tmp_path / "y.jsonl")
    (row,) = read(tmp_path / "y.jsonl")
    assert (row["n"], row["m"]) == (None, [None, 1.0])


@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
@pytest.mark.parametrize("wanted", ["y.parquet", "y.csv", "y.jsonl"])
def test_a_file_without_rows_gives_one_without_rows(model: Model, tmp_path: Path, name: str, wanted: str) -> None:
    (tmp_path / "x.csv").write_text("id,text\n")
    pq.write_table(pa.schema([("id", pa.int64()), ("text", pa.string())]).empty_table(), tmp_path / "x.parquet")
    assert answer_file(model, tmp_path / name, tmp_path / wanted).written == 0
    assert read(tmp_path / wanted) == []
    if wanted != "y.jsonl":
        names = ["id", "text", "label", "score", "truncated"]
        head = (tmp_path / wanted).read_text().strip().split(",") if wanted == "y.csv" else None
        assert (head or pq.read_schema(tmp_path / wanted).names) == names


# Bad rows.


def bad_rows(folder: Path) -> Path:
    lines = ['{"id": 1, "text": "good"}', '{"id": 2, "text": null}', "no JSON", '{"id": 4}', '{"id": 5, "text": " "}']
    lines += ['{"id": 6, "text": 7}', '{"id": 7, "text": "caf\udce9"}', '{"id": 8, "text": "bad"}']
    (folder / "x.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return folder / "x.jsonl"


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_bad_rows_are_skipped_or_null(model: Model, tmp_path: Path, chunk: int) -> None:
    source = bad_rows(tmp_path)
    found = answer_file(model, source, tmp_path / "a.jsonl", Settings(on_error="skip", chunk=chunk))
    assert [(row["id"], row["label"]) for row in read(tmp_path / "a.jsonl")] == [(1, "positive"), (8, "negative")]
    assert (found.read, found.written, found.bad) == (8, 2, 6)
    assert found.first_bad.startswith(f"{source}: line 2: the text in column 'text' is empty")
    answer_file(model, source, tmp_path / "b.parquet", Settings(on_error="null", chunk=chunk))
    rows = read(tmp_path / "b.parquet")
    assert [row["id"] for row in rows] == [1, 2, None, 4, 5, 6, None, 8]  # nothing is known of lines 3 and 7
    assert [row["label"] for row in rows] == ["positive", *[None] * 6, "negative"]
    assert all(row["score"] is None and row["truncated"] is None for row in rows[1:7])


def test_a_bad_row_stops_the_job_which_goes_on_when_it_may(model: Model, tmp_path: Path) -> None:
    source, target = bad_rows(tmp_path), tmp_path / "y.jsonl"
    with pytest.raises(DataError, match=r"x\.jsonl: line 2: .* is empty.*--on-error skip"):
        answer_file(model, source, target, Settings(chunk=1))
    assert not target.exists()
    found = answer_file(model, source, target, Settings(chunk=1, on_error="skip"))
    assert (found.before, found.written) == (1, 2)
    assert [row["id"] for row in read(target)] == [1, 8]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('text\n"good', r"x\.csv: line 2: unexpected end of data"),
        ("text,text\ngood,bad", r"x\.csv: line 1: a column name stands twice"),
        ("text,id\ngood", r"x\.csv: line 2: 1 fields, but the header has 2"),
        ("text\ncaf\udce9", r"x\.csv: line 2: not UTF-8: byte 0xe9 behind 3 characters; re-save .* iconv"),
        ("", r"x\.csv: is empty"),
        ("id,body\n1,good", r"no text column: looked for text.*found \['id', 'body'\]"),
    ],
)
def test_csv_that_cannot_be_read(model: Model, tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "x.csv").write_text(lines, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(DataError, match=words):
        answer_file(model, tmp_path / "x.csv", tmp_path / "y.jsonl")
    assert not (tmp_path / "y.jsonl").exists()


# What is refused before anything is done.


def test_bad_input(model: Model, tmp_path: Path) -> None:
    rows = [{"id": i, "body": text} for i, text in enumerate(TEXTS)]
    source = write(tmp_path / "x.parquet", rows)

    def refused(words: str, given: Path = source, target: str = "y.jsonl", **settings: Any) -> None:
        with pytest.raises((DataError, SettingsError), match=words):
            answer_file(model, given, tmp_path / target, Settings(column="body", **settings))
        assert not list(tmp_path.glob("y*"))

    with pytest.raises(DataError, match=r"looked for text.*found \['id', 'body'\]"):
        answer_file(model, source, tmp_path / "y.jsonl")
    with pytest.raises(DataError, match=r"column.*'texts'.*\['id', 'body'\]"):
        answer_file(model, source, tmp_path / "y.jsonl", Settings(column="texts"))
    with pytest.raises(DataError, match=r"reads single texts.*id and body; choose one column"):
        answer_file(model, source, tmp_path / "y.jsonl", Settings(column="id,body"))
    refused(r"there is no such file", tmp_path / "no.parquet")
    refused(r"y\.xlsx: a job writes \.parquet, .* not '\.xlsx'", target="y.xlsx")
    refused(r"x\.json: a job reads \.parquet, .* not '\.json'", tmp_path / "x.json")
    refused(r"there is no folder .*none; make it first", target="none/y.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    refused(r"folder\.jsonl: is a folder", target="folder.jsonl")
    refused(r"x\.parquet: is the input itself", target="x.parquet")
    (tmp_path / "cut.parquet").write_bytes(source.read_bytes()[:-50])
    refused(r"cut\.parquet: is not a readable parquet file", tmp_path / "cut.parquet")
    refused("on_error must be one of stop, skip, null", on_error="ignore")
    refused("chunk must be a number of rows of at least 1, not 0", chunk=0)
    clash = write(tmp_path / "clash.jsonl", [{"body": "good", "label": 1}])
    refused(r"has a column 'label' already.*--prefix predicted_", clash)
    answer_file(model, clash, tmp_path / "z.jsonl", Settings(column="body", prefix="predicted_"))
    assert list(read(tmp_path / "z.jsonl")[0]) == [
        "body",
        "label",
        *(f"predicted_{n}" for n in ("label", "score", "truncated")),
    ]


def test_a_parquet_file_that_is_damaged_inside(model: Model, tmp_path: Path) -> None:
    source = write(tmp_path / "x.parquet", [{"text": f"good {i}"} for i in range(100)])
    content = bytearray(source.read_bytes())
    content[4:40] = bytes(36)  # the head of the first page
    source.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"x\.parquet: is not a readable parquet file"):
        answer_file(model, source, tmp_path / "y.csv")


def test_an_output_that_exists_is_kept(model: Model, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [{"text": "good"}])
    (tmp_path / "y.jsonl").write_text("mine")
    with pytest.raises(SettingsError, match=r"y\.jsonl: exists already; --overwrite replaces it"):
        answer_file(model, source, tmp_path / "y.jsonl")
    assert (tmp_path / "y.jsonl").read_text() == "mine"
    answer_file(model, source, tmp_path / "y.jsonl", Settings(overwrite=True))
    assert [row["label"] for row in read(tmp_path / "y.jsonl")] == ["positive"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jsonl", "y.jsonl"]


def test_a_folder_of_the_same_name_that_is_no_job_is_left_alone(model: Model, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [{"text": "good"}])
    (tmp_path / "y.jsonl.job").mkdir()
    (tmp_path / "y.jsonl.job" / "thesis.doc").write_text("mine")
    with pytest.raises(SettingsError, match=r"y\.jsonl\.job: holds 'thesis.doc', so it is no job"):
        answer_file(model, source, tmp_path / "y.jsonl", Settings(overwrite=True))


def test_a_folder_that_cannot_be_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "x.jsonl", [{"text": "good"}, {"text": "bad"}])
    (tmp_path / "y.jsonl.job").write_text("a file in the folder's place")
    with pytest.raises(SettingsError, match=r"y\.jsonl: cannot be written .*run the same command again"):
        answer_file(model, source, tmp_path / "y.jsonl")
    (tmp_path / "y.jsonl.job").unlink()

    def full(file: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SettingsError, match=r"cannot be written .*No space left"):
        patch.setattr(work, "append", full)
        answer_file(model, source, tmp_path / "y.jsonl")
    assert answer_file(model, source, tmp_path / "y.jsonl").written == 2


def test_an_input_that_changes_under_way(model: Model, tmp_path: Path) -> None:
    source = write(tmp_path / "x.jsonl", [{"text": "good"}, {"text": "bad"}])

    def change(_: object) -> None:
        with source.open("a") as file:
            file.write('{"text": "more"}\n')

    with pytest.raises(DataError, match="was changed while it was read"):
        answer_file(model, source, tmp_path / "y.jsonl", Settings(chunk=1), change)
    assert not (tmp_path / "y.jsonl").exists()


# Kills.


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
