"""Jobs over files: what is written, bad rows, and what is refused."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.jobs import Settings, answer_file, work
from attar.runtime.model import Model, load
from tests.fixtures_bundle import make_tiny_bundle
from tests.runtime.job_files import ANSWERS, TEXTS, read, write


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_tiny_bundle(tmp_path_factory.mktemp("jobs") / "tiny"), threads=1)


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
