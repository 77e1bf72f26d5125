"""Reading texts and labels: all formats give the same examples, every fault names place and remedy."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar.runtime.data import Examples, read_examples
from attar.runtime.errors import DataError

TEXTS = ("a gripping, funny film", 'dull, "very" dull', "naïve\u2028but kind")
LABELS = ("positive", "negative", "positive")
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(rows: list[dict[str, Any]], ending: str = "\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + ending for row in rows)


def separated(separator: str, ending: str) -> str:
    rows = [(row["text"], row["label"]) for row in ROWS]
    quoted = [f'"{text.replace(chr(34), chr(34) * 2)}"{separator}{label}' for text, label in rows]
    return ending.join([f"text{separator}label", *quoted, ""])


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".ndjson", ".json"])
def test_every_text_format_gives_the_same_examples(tmp_path: Path, kind: str, ending: str, bom: str) -> None:
    if kind == ".json":
        content = json.dumps(ROWS, ensure_ascii=False, indent=1).replace("\n", ending)
    elif kind in (".csv", ".tsv"):
        content = separated("," if kind == ".csv" else "\t", ending)
    else:
        content = jsonl(ROWS, ending)
    examples = read_examples(write(tmp_path / f"data{kind}", bom + content))
    assert examples.texts == TEXTS
    assert examples.labels == LABELS
    assert examples.digest() == Examples(TEXTS, LABELS, "elsewhere").digest()


def test_txt_is_a_text_a_line_without_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "data.txt", "one\r\ntwo\u2028more\r\n")
    examples = read_examples(path, require_labels=False)
    assert (examples.texts, examples.labels, len(examples)) == (("one", "two\u2028more"), None, 2)
    with pytest.raises(DataError, match=r"no label column.*csv or jsonl"):
        read_examples(path)
    with pytest.raises(DataError, match=r"line 2: .*is empty"):
        read_examples(write(tmp_path / "gap.txt", "one\n\nthree\n"), require_labels=False)


def test_digest_depends_on_texts_labels_and_order() -> None:
    variants = [
        Examples(("a", "b"), ("x", "y"), "s"),
        Examples(("b", "a"), ("y", "x"), "s"),
        Examples(("a", "b"), ("x", "x"), "s"),
        Examples(("a", "b"), None, "s"),
        Examples(("ab",), None, "s"),
    ]
    assert len({each.digest() for each in variants}) == len(variants)


def test_a_label_for_every_text_or_none_at_all() -> None:
    with pytest.raises(DataError, match="2 texts but 1 labels"):
        Examples(("a", "b"), ("x",), "here")


def test_columns_are_found_by_their_usual_names_or_named(tmp_path: Path) -> None:
    usual = write(tmp_path / "usual.csv", "sentiment,review\npos,good\n")
    assert read_examples(usual).texts == ("good",)
    odd = write(tmp_path / "odd.csv", "utterance,intent\nhello,greet\n")
    assert read_examples(odd, text="utterance", label="intent").labels == ("greet",)
    with pytest.raises(DataError, match=r"text.*\['utterance', 'intent'\].*text=\.\.\."):
        read_examples(odd)
    with pytest.raises(DataError, match=r"no column 'mood'.*\['utterance', 'intent'\]"):
        read_examples(odd, text="utterance", label="mood")


@pytest.mark.parametrize(
    ("value", "label"),
    [(1, "1"), (1.0, "1"), (-2.0, "-2"), (0.5, "0.5"), (" joy ", "joy"), (True, "true"), ("1.0", "1.0")],
)
def test_labels_become_strings(tmp_path: Path, value: object, label: str) -> None:
    path = write(tmp_path / "data.jsonl", jsonl([{"text": "a", "label": value}]))
    assert read_examples(path).labels == (label,)


def test_optional_labels_are_all_there_or_all_absent(tmp_path: Path) -> None:
    none = write(tmp_path / "none.jsonl", jsonl([{"text": "a", "label": None}, {"text": "b"}]))
    assert read_examples(none, require_labels=False).labels is None
    half = write(tmp_path / "half.jsonl", jsonl([{"text": "a"}, {"text": "b", "label": "x"}]))
    with pytest.raises(DataError, match=r"half\.jsonl: line 1: has no label"):
        read_examples(half, require_labels=False)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"text,label\n", "no example"),
        ("a.jsonl", b"\n \r\n", "is empty"),
        ("a.json", b"[]", "no example"),
        ("a.csv", b"text,label\nok,x\n  ,x\n", r"a\.csv: line 3: .*is empty; .*remove the row"),
        ("a.csv", b"text,label\nok,x\nfine,\n", r"line 3: has no label; fill it in"),
        ("a.jsonl", b'{"text": "ok", "label": "x"}\n{"text": "ok"}\n', r"line 2: has no label"),
        ("a.csv", b"text,label\nok,x\none, two,x\n", r"line 3: 3 fields, but the header has 2; .*quote"),
        ("a.csv", b'text,label\n"two\nlines",x\nok\n', r"line 4: 1 fields"),
        ("a.csv", b'text,label\n"never closed,x\n', r"line 2: .*JSON lines"),
        ("a.csv", b"text,text,label\na,b,x\n", r"stands twice"),
        ("a.jsonl", b'{"text": "ok", "label": "x"}\n{"text": \n', r"line 2: is not valid JSON"),
        ("a.jsonl", b'["ok"]\n', r"line 1: is not an object"),
        ("a.jsonl", b"[" * 100_000, r"line 1: is not valid JSON"),
        ("a.json", b'{"text": "ok"}', r"must be a list of objects"),
        ("a.json", b'{"text": "ok"}\n{"text": "ok"}', r"is not valid JSON .*\.jsonl"),
        ("a.json", b'[{"text": "ok", "label": "x"}, {"text": 3, "label": "x"}]', r"row 2: .*holds a int"),
        ("a.json", b'[{"text": "ok", "label": {"x": 1}}]', r"row 1: the label is a dict"),
        ("a.json", b'[{"text": "\\ud800", "label": "x"}]', r"row 1: .*surrogate"),
        ("a.csv", b"text,label\nok,x\ncaf\xe9,x\n", r"byte 0xe9 at offset 19 \(line 3\).*iconv"),
        ("a.csv", "text,label\nok,x\n".encode("utf-16"), r"offset 0 \(line 1\)"),
        ("a.xlsx", b"PK", r"unknown file ending '\.xlsx'.*\.csv"),
    ],
)
def test_faults_name_place_and_remedy(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=f"(?s){words}") as caught:
        read_examples(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(caught.value)


def test_missing_file_and_needless_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: there is no such file"):
        read_examples(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="split='test' selects nothing"):
        read_examples(write(tmp_path / "a.csv", "text,label\na,x\n"), split="test")
