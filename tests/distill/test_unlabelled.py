"""Unlabelled texts: any column of any file, cut into sentences by hand's count; and the recipes that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.distill.data.sentences import sentences as cut
from attar.distill.data.unlabelled import LONGEST, SHORTEST, Source, read_unlabelled
from attar.pipeline.data import Data, read_data
from attar.pipeline.recipe import parse
from attar.runtime.errors import DataError, SettingsError

DOCUMENT = "The screen is far too dark. Really?! It cost me 3.50 a month: never again!\r\nOne more line of text\n- no"
CUT = ["The screen is far too dark.", "It cost me 3.50 a month: never again!", "One more line of text"]
TABLE = '[data] unlabelled: an entry is a file or an asset, or a table like { source = "notes.csv"'


def lines(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sentences(text: str) -> list[str]:
    return cut(text, SHORTEST, LONGEST)


def read(source: Source, kind: str = "text-classification") -> tuple[Any, ...]:
    found = read_unlabelled(source, kind=kind)
    assert found.labels is None
    return found.texts


def test_sentences_by_hand() -> None:
    assert sentences(DOCUMENT) == CUT  # "Really?!" and "- no" are too short to say anything
    assert sentences("a b c") == [] and sentences("a b c d") == ["a b c d"]
    assert sentences(" ".join("x" * 60)) != [] and sentences(" ".join("x" * 61)) == []


@given(st.text(alphabet="ab .!?\n\r\u2028é", max_size=80))
def test_a_sentence_is_a_part_of_its_text(text: str) -> None:
    found = sentences(text)
    at = 0
    for sentence in found:
        at = text.index(sentence, at) + len(sentence)  # in order, without overlap
        assert 4 <= len(sentence.split()) <= 60 and sentence == sentence.strip() and "\n" not in sentence
        assert sentences(sentence) == [sentence]


def test_a_column_of_texts_is_read_as_it_stands(tmp_path: Path) -> None:
    rows = [
        {"question": "q", "context": c, "answers": []} for c in (DOCUMENT, "Another document stands here.", DOCUMENT)
    ]
    name = lines(tmp_path / "a.jsonl", *rows)
    assert read(Source(name, "context")) == (DOCUMENT, "Another document stands here.", DOCUMENT)
    assert read(Source(name, "context", sentences=True)) == (*CUT, "Another document stands here.")
    (tmp_path / "a.csv").write_text("id,body\n1,x y\n2,x y\n")
    assert read(Source(str(tmp_path / "a.csv"), "body")) == ("x y", "x y")


def test_tokens_are_joined_by_spaces_whatever_the_task(tmp_path: Path) -> None:
    row = {"tokens": ["find", "the", "game", "now"], "tags": ["O"] * 4, "words": ["a", "b"]}
    name = lines(tmp_path / "a.jsonl", row)
    assert read(Source(name, "tokens")) == read(Source(name, "tokens", True)) == ("find the game now",)
    assert read(Source(name, "words")) == ("a b",)
    (tmp_path / "a.conll").write_text("find O\nit O\n\nnow O\n")
    assert read(Source(str(tmp_path / "a.conll"), "tokens"), "regression") == ("find it", "now")
    # Without a column the file is read as the task reads it, and that task has no column of tokens.
    with pytest.raises(DataError, match="has no text column"):
        read(Source(name))


def test_contexts_of_nested_questions_are_texts_too(tmp_path: Path) -> None:
    qas = [{"question": "Who was it?", "answers": []}, {"question": "When was it?", "answers": []}]
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": DOCUMENT, "qas": qas}]}]}))
    assert read(Source(str(tmp_path / "squad.json"), "context", True)) == tuple(CUT)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    name = lines(tmp_path / "a.jsonl", {"premise": "It is so.", "hypothesis": "It is not."})
    with pytest.raises(DataError, match=r"has no column 'body'; its columns are \['premise', 'hypothesis'\]"):
        read(Source(name, "body"))
    with pytest.raises(DataError, match="holds pairs, which are not cut into sentences; name one column of them"):
        read(Source(name, sentences=True))
    with pytest.raises(DataError, match="no sentence of 4 to 60 words; leave sentences out"):
        read(Source(name, "premise", sentences=True))
    with pytest.raises(SettingsError, match="asset:vader-movie: has no columns"):
        read(Source("asset:vader-movie", "text"))


def run_data(tmp_path: Path, unlabelled: Any, **train: Any) -> Data:
    rows = [train or {"text": f"This is text number {i}", "label": str(i % 2)} for i in range(20)]
    table = {"train": lines(tmp_path / "train.jsonl", *rows), "unlabelled": unlabelled}
    return read_data(parse({"name": "x", "data": table, "teacher": {"model": "m"}}))


def test_a_recipe_mixes_names_and_tables(tmp_path: Path) -> None:
    documents = lines(tmp_path / "a.jsonl", {"body": f"{DOCUMENT}\nThis is text number 7"})
    (tmp_path / "more.txt").write_text("a text of its own\n")
    entries = [str(tmp_path / "more.txt"), {"source": documents, "column": "body", "sentences": True}]
    found = run_data(tmp_path, entries).unlabelled
    assert found.texts == ("a text of its own", *CUT)  # and nothing that another part has
    assert found.labels is None
    for alone in (entries[1], [entries[1]]):
        assert run_data(tmp_path, alone).unlabelled.texts == tuple(CUT)


def test_single_texts_do_not_go_with_pairs(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a text of its own\n")
    rows = [{"premise": f"a {i}", "hypothesis": "b", "label": str(i % 2)} for i in range(20)]
    data = {"train": lines(tmp_path / "t.jsonl", *rows)}
    for entry in ({"source": str(tmp_path / "more.txt"), "column": "text"}, str(tmp_path / "more.txt")):
        with pytest.raises(DataError, match="'a text of its own': training is on pairs, not on single texts"):
            read_data(parse({"name": "x", "data": {**data, "unlabelled": entry}, "teacher": {"model": "m"}}))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, TABLE),
        ({"column": "body"}, TABLE),
        ({"source": "a.csv", "sentence": True}, "[data] unlabelled has no setting 'sentence'; known: source, column,"),
        ({"source": "a.csv", "sentences": "yes"}, "[data] unlabelled: sentences must be true or false, not 'yes'"),
        ({"source": "a.csv", "column": 2}, "[data] unlabelled: column must be a text, not 2"),
        ({"source": 3}, "[data] unlabelled: source must be a text, not 3"),
    ],
)
def test_entries_that_are_refused(entry: object, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse({"name": "x", "data": {"train": "t.csv", "unlabelled": [entry]}, "teacher": {"model": "m"}})
    assert words in str(caught.value)


def test_questions_take_no_single_texts() -> None:
    data = {"train": "t.json", "unlabelled": {"source": "a.csv", "column": "body"}}
    with pytest.raises(SettingsError, match="question-answering reads pairs of question and context"):
        parse({"name": "x", "data": data, "teacher": {"model": "m"}, "task": {"kind": "question-answering"}})
