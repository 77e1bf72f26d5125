"""Tags, entities and answers: the places in texts that they become, and what is refused in which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.runtime.data import Examples, read_examples
from attar.runtime.errors import DataError


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads rows through a JSON lines file."""

    def reading(kind: str, *rows: dict[str, Any], **options: Any) -> Examples:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read_examples(path, kind=kind, **options)

    return reading


# The spans are counted by hand.
TOKENS = ["fly", "from", "New", "York", "to", "Bonn", "today"]
CITIES = ((9, 17, "city"), (21, 25, "city"))


@pytest.mark.parametrize("column", ["tags", "ner_tags", "labels"])
@pytest.mark.parametrize(
    "tags",
    [
        ["O", "O", "B-city", "I-city", "O", "B-city", "O"],
        ["O", "O", "B-city", "L-city", "O", "U-city", "O"],
        ["O", "O", "B-city", "E-city", "O", "S-city", "O"],
    ],
)
def test_tags_become_spans_of_characters(read: Any, column: str, tags: list[str]) -> None:
    examples = read("token-classification", {"tokens": TOKENS, column: tags})
    assert (examples.texts, examples.labels) == (("fly from New York to Bonn today",), (CITIES,))


@pytest.mark.parametrize("column", ["entities", "spans"])
def test_entities_are_spans_already(read: Any, column: str) -> None:
    entities = [{"start": start, "end": end, "label": name} for start, end, name in reversed(CITIES)]
    text = "fly from New York to Bonn today"
    assert read("token-classification", {"text": text, column: entities}).labels == (CITIES,)
    named = read("token-classification", {"note": text, "found": entities}, text="note", label="found")
    assert (named.texts, named.labels) == ((text,), (CITIES,))


def test_tags_without_prefixes_are_a_span_each(read: Any) -> None:
    rows = [{"tokens": ["old", "New", "York"], "tags": ["ADJ", "NOUN", "NOUN"]}, {"tokens": ["!"], "tags": ["O"]}]
    expected = (((0, 3, "ADJ"), (4, 7, "NOUN"), (8, 12, "NOUN")), ())
    assert read("token-classification", *rows).labels == expected


@given(
    rows=st.lists(
        st.lists(st.tuples(st.text("aé😂b-", min_size=1, max_size=3), st.integers(0, 2)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    )
)
def test_every_tagged_word_is_found_at_its_span(rows: list[list[tuple[str, int]]], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("tags") / "a.jsonl"
    names = ["O", "U-x", "U-y"]
    content = [{"tokens": [t for t, _ in row], "tags": [names[n] for _, n in row]} for row in rows]
    path.write_text("\n".join(map(json.dumps, content)), encoding="utf-8")
    examples = read_examples(path, kind="token-classification")
    for row, text, spans in zip(rows, examples.texts, examples.labels or (), strict=True):
        assert [(text[start:end], name) for start, end, name in spans] == [(t, names[n][2:]) for t, n in row if n]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"tokens": ["a"] * 12, "tags": ["O"] * 11}, r"line 2: 12 tokens but 11 tags; give every token one tag"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, r"line 2: token 2, '', is empty"),
        ({"tokens": ["a b"], "tags": ["O"]}, r"line 2: token 1, 'a b', holds white space"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, r"line 2: token 2 is a int, not a text"),
        ({"tokens": [], "tags": []}, r"line 2: the text in column 'tokens' is empty"),
        ({"tokens": "a", "tags": ["O"]}, r"line 2: column 'tokens' holds a str, not a list of tokens; .*CoNLL"),
        ({"tokens": ["\ud800"], "tags": ["O"]}, r"line 2: .*surrogate"),
        ({"tokens": ["a"], "tags": "O"}, r"line 2: column 'tags' holds a str, not a list"),
        ({"tokens": ["a"], "tags": [1]}, r"line 2: tag 1 is the number 1, whose name is unknown; write tags as str"),
        ({"tokens": ["a"], "tags": [None]}, r"line 2: tag 1 is None; write O, or a tag such as B-person"),
        ({"tokens": ["a"]}, r"line 2: has no label"),
        ({"tokens": ["a"], "tags": ["PER"]}, r"line 2: 'PER' is a tag without a prefix .*but 'B-x' \(.*line 1\) is"),
        ({"tokens": ["a", "b"], "tags": ["B-x", "X-y"]}, r"line 2: 'X-y' is a tag without a prefix"),
    ],
)
def test_faults_of_tokens_and_tags(read: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("token-classification", {"tokens": ["a"], "tags": ["B-x"]}, row)


@pytest.mark.parametrize(
    ("entities", "words"),
    [
        ([(0, 6)], r"line 1: entity 1 goes from 0 to 6, but the text from 0 to 5"),
        ([(-1, 2)], r"entity 1 goes from -1 to 2"),
        ([(2, 2)], r"entity 1 goes from 2 to 2"),
        ([(3, 5), (0, 4)], r"the entities \(0, 4, 'x'\) and \(3, 5, 'x'\) overlap; keep one"),
        ([(0, "5")], r"entity 1 is \{.*\}; write \{\"start\": 0"),
    ],
)
def test_faults_of_entities(read: Any, entities: list[tuple[Any, Any]], words: str) -> None:
    spans = [{"start": start, "end": end, "label": "x"} for start, end in entities]
    with pytest.raises(DataError, match=words):
        read("token-classification", {"text": "a b c", "entities": spans})


def test_tags_of_an_unsplit_text_are_refused(read: Any) -> None:
    with pytest.raises(DataError, match=r"entity 1 is 'O'.*name a column of tokens if these are tags"):
        read("token-classification", {"text": "a b", "marks": ["O", "O"]}, label="marks")
    with pytest.raises(DataError, match=r"no label column: looked for entities, spans, found \['text', 'tags'\]"):
        read("token-classification", {"text": "a b", "tags": ["O", "O"]})


def test_tokens_and_texts_without_labels(read: Any) -> None:
    for row in ({"tokens": ["a", "b"]}, {"text": "a b"}, {"text": "a b", "labels": ["news"]}):
        examples = read("token-classification", row, require_labels=False)
        assert (examples.texts, examples.labels) == (("a b",), None)


ADA = {"question": "When?", "context": "Né en 1843, not 1844."}


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        ([{"text": "1843", "start": 6}], (("1843", 6),)),
        ([{"text": "1844", "answer_start": 16}, {"text": "1843", "answer_start": 6}], (("1844", 16), ("1843", 6))),
        ({"text": ["1843"], "answer_start": [6]}, (("1843", 6),)),
        ({"text": [], "answer_start": []}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_answers(read: Any, answers: Any, label: tuple[Any, ...]) -> None:
    examples = read("question-answering", ADA | {"answers": answers}, ADA | {"answers": [{"text": "Né", "start": 0}]})
    assert examples.texts[0] == ("When?", "Né en 1843, not 1844.")
    assert examples.labels == (label, (("Né", 0),))


def test_questions_under_other_names_and_without_answers(read: Any) -> None:
    row = {"q": "When?", "passage": "in 1843", "a": [{"text": "1843", "start": 3}]}
    examples = read("question-answering", row, text="q,passage", label="a")
    assert (examples.texts, examples.labels) == ((("When?", "in 1843"),), ((("1843", 3),),))
    with pytest.raises(DataError, match=r"needs the columns question and context, found \['q', 'passage', 'a'\]"):
        read("question-answering", row)
    for unknown in (ADA, ADA | {"answers": None}):
        assert read("question-answering", unknown, require_labels=False).labels is None
        with pytest.raises(DataError, match="no label"):
            read("question-answering", unknown)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": " "}, r"line 1: the text in column 'question' is empty"),
        ({"context": ""}, r"line 1: the text in column 'context' is empty"),
        # 7 is where a count of bytes would put it
        ({"answers": [{"text": "1843", "start": 7}]}, r"'1843' is not at 7, where '843,' stands; it is at 6; count ch"),
        ({"answers": [{"text": "1845", "start": 6}]}, r"'1845' is not at 6, where '1843' stands; it is nowhere"),
        ({"answers": [{"text": "1844.", "start": -5}]}, r"'1844\.' is not at -5, where '' stands; it is at 16"),
        ({"answers": [{"text": "", "start": 0}]}, r"an answer has text '' and start 0"),
        ({"answers": [{"text": "1843"}]}, r"an answer has text '1843' and start None"),
        ({"answers": "1843"}, r"the answers are '1843'; write \[\{\"text\""),
        ({"answers": {"text": ["1843"], "answer_start": []}}, r"two lists of one length"),
    ],
)
def test_faults_of_answers(read: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("question-answering", ADA | {"answers": []} | row)
