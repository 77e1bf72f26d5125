"""Rows as texts and labels, for every kind of task: what they may look like, and what is refused in which words."""

import json
from pathlib import Path
from typing import Any

import pytest

from attar.runtime.data import Examples, read_examples
from attar.runtime.errors import DataError, SettingsError

KINDS = (
    "text-classification",
    "regression",
    "token-classification",
    "question-answering",
    "embeddings",
    "multi-task",
)
HEADS = (("intent", "text-classification", "intent"), ("slots", "token-classification", "tags"))


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Reads rows through a JSON lines file."""

    def reading(kind: str, *rows: dict[str, Any], **options: Any) -> Examples:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return read_examples(path, kind=kind, **options)

    return reading


def test_an_unknown_kind_lists_the_known_ones(read: Any) -> None:
    with pytest.raises(SettingsError, match=rf"no task 'summaries'; the known ones are {', '.join(KINDS)}"):
        read("summaries", {"text": "a", "label": "b"})


@pytest.mark.parametrize(
    ("columns", "pair"),
    [
        (("text", "text_pair"), True),
        (("sentence1", "sentence2"), True),
        (("premise", "hypothesis"), True),
        (("question1", "question2"), True),
        (("question", "sentence"), True),
        (("text", "premise", "hypothesis"), False),
        (("text", "text_pair", "review"), True),
        (("question", "sentence", "text"), False),
    ],
)
@pytest.mark.parametrize(("kind", "label"), [("text-classification", "x"), ("regression", 0.5), ("embeddings", 0.5)])
def test_pairs_are_found_where_no_single_text_is(
    read: Any, columns: tuple[str, ...], pair: bool, kind: str, label: Any
) -> None:
    examples = read(kind, {column: f"the {column}" for column in columns} | {"label": label})
    expected = tuple(f"the {column}" for column in columns[:2]) if pair else "the text"
    assert examples.texts == (expected,)
    assert examples.labels == (label if pair or kind != "embeddings" else str(label),)


def test_two_columns_named_make_a_pair(read: Any) -> None:
    row = {"text": "t", "title": "a", "body": "b", "label": "x"}
    assert read("text-classification", row, text="title, body").texts == (("a", "b"),)
    assert read("text-classification", row, text="body").texts == ("b",)
    assert read("text-classification", {"a,b": "one", "label": "x"}, text="a,b").texts == ("one",)
    with pytest.raises(DataError, match=r"no column 'boddy'.*\['text', 'title', 'body', 'label'\]"):
        read("text-classification", row, text="title,boddy")


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_both_texts_of_a_pair_must_say_something(read: Any, blank: Any) -> None:
    fine = {"premise": "p", "hypothesis": "h", "label": "x"}
    with pytest.raises(DataError, match=r"line 2: the text in column 'hypothesis' is empty"):
        read("text-classification", fine, fine | {"hypothesis": blank})


def test_several_labels_are_sorted_and_single(read: Any) -> None:
    rows = [{"text": "a", "label": ["joy", " anger", "joy", 3]}, {"text": "b", "label": []}]
    assert read("text-classification", *rows).labels == (("3", "anger", "joy"), ())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((["x"], "x"), r"line 2: 'x' is a single label, but \['x'\] \(.*line 1\) is a list of labels"),
        (("x", []), r"line 2: \[\] is a list of labels, but 'x' \(.*line 1\) is a single label; write all in one way"),
        ((["x", None],), r"line 1: the list of labels \['x', None\] holds an empty one"),
        (([["x"]],), r"line 1: the label is a list; give one name or number"),
        ((["x"], None), r"line 2: has no label"),
    ],
)
def test_labels_are_written_in_one_way(read: Any, labels: tuple[Any, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("text-classification", *({"text": "a", "label": label} for label in labels))


@pytest.mark.parametrize("column", ["label", "score", "rating", "target"])
@pytest.mark.parametrize(
    ("value", "number"), [(3, 3.0), (-0.25, -0.25), ("3.5", 3.5), (" 1e-3 ", 0.001), ("-.5", -0.5), ("4.", 4.0)]
)
def test_numbers(read: Any, column: str, value: Any, number: float) -> None:
    labels = read("regression", {"text": "a", column: value}).labels
    assert labels == (number,)
    assert type(labels[0]) is float


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("3,5", r"line 1: the label '3,5' has a comma; write decimals with a point"),
        ("1,234.5", "not a finite number"),
        ("good", "'good' is not a finite number; mend it, or choose a kind with classes"),
        ("1_000", "not a finite number"),
        ("nan", "not a finite number"),
        ("infinity", "not a finite number"),
        ("1e999", "not a finite number"),
        (10**400, "not a finite number"),
        (float("inf"), "not a finite number"),
        (True, "not a finite number"),
        ([1.0], "not a finite number"),
        (" ", "has no label"),
        (float("nan"), "has no label"),
    ],
)
def test_what_is_no_number(read: Any, value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("regression", {"text": "a", "label": value})


def test_embeddings_need_no_labels(read: Any) -> None:
    assert read("embeddings", {"text": "a"}).labels is None
    assert read("embeddings", {"text": "a", "label": 1}).labels == ("1",)
    pair = read("embeddings", {"query": "a", "passage": "b"})
    assert (pair.texts, pair.labels) == ((("a", "b"),), None)
    scored = read("embeddings", {"anchor": "a", "positive": "b", "score": "0.5"})
    assert (scored.texts, scored.labels) == ((("a", "b"),), (0.5,))
    translated = read("embeddings", {"source": "a", "target": "b"}, text="source,target")
    assert (translated.texts, translated.labels) == ((("a", "b"),), None)
    with pytest.raises(DataError, match=r"line 2: has no label"):
        read("embeddings", {"text": "a", "label": 1}, {"text": "b"})
    with pytest.raises(DataError, match=r"no column 'topic'"):
        read("embeddings", {"text": "a"}, label="topic")


# The spans are counted by hand.
TOKENS = ["fly", "from", "New", "York", "to", "Bonn", "today"]
CITIES = ((9, 17, "city"), (21, 25, "city"))
FLIGHT = {"tokens": TOKENS, "tags": ["O", "O", "B-city", "I-city", "O", "B-city", "O"], "intent": "fly"}


def test_heads_have_a_label_each(read: Any) -> None:
    examples = read("multi-task", FLIGHT, heads=HEADS)
    assert (examples.texts, examples.labels) == (("fly from New York to Bonn today",), (("fly", CITIES),))
    assert read("multi-task", FLIGHT, heads=HEADS[::-1]).labels == ((CITIES, "fly"),)
    classes = (("topic", "text-classification", "topic"), ("mood", "text-classification", "mood"))
    assert read("multi-task", {"text": "a", "topic": 1, "mood": "b"}, heads=classes).labels == (("1", "b"),)
    for row in ({"tokens": TOKENS}, {"text": " ".join(TOKENS)}, FLIGHT | {"tags": None, "intent": None}):
        assert read("multi-task", row, heads=HEADS, require_labels=False).labels is None


RATED = (("topic", "text-classification", "topic"), ("mood", "regression", "rating"))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_head_may_be_a_number(ending: str, tmp_path: Path) -> None:
    rows = {
        "jsonl": '{"text": "a", "topic": "film", "rating": 3}\n{"text": "b", "topic": "book", "rating": -0.5}\n',
        "csv": "text,topic,rating\na,film,3\nb,book,-0.5\n",
    }
    path = tmp_path / f"rows.{ending}"
    path.write_text(rows[ending])
    assert read_examples(path, kind="multi-task", heads=RATED).labels == (("film", 3.0), ("book", -0.5))
    assert read_examples(path, kind="multi-task", heads=RATED[::-1]).labels == ((3.0, "film"), (-0.5, "book"))


def test_a_number_stands_beside_tags(read: Any) -> None:
    rows = FLIGHT | {"rating": "1e1"}
    assert read("multi-task", rows, heads=(*HEADS, RATED[1])).labels == (("fly", CITIES, 10.0),)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("good", "line 1: the label 'good' is not a finite number"),
        ("3,5", "line 1: the label '3,5' has a comma; write decimals with a point"),
        (None, "line 1: has no label for the head 'mood' in column 'rating'; fill it in"),
    ],
)
def test_a_head_of_numbers_refuses_what_is_none(read: Any, value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("multi-task", {"text": "a", "topic": "film", "rating": value}, heads=RATED)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"tokens": TOKENS, "tags": FLIGHT["tags"]},
            r"no column 'intent' for the head 'intent'; .*\['tokens', 'tags'\]",
        ),
        (FLIGHT | {"intent": None}, r"line 1: has no label for the head 'intent' in column 'intent'"),
        (FLIGHT | {"tags": ["O"]}, r"line 1: 7 tokens but 1 tags"),
        ({"text": "a", "tags": ["O"], "intent": "b"}, r"no text column: looked for tokens, found"),
    ],
)
def test_faults_of_heads(read: Any, row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read("multi-task", row, heads=HEADS)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("multi-task", {}, "multi-task: has 0 heads"),
        ("regression", {"heads": HEADS}, "regression: has 2 heads; multi-task needs some, other tasks none"),
        ("multi-task", {"heads": (("a", "embeddings", "b"),)}, "head 'a': is of kind 'embeddings'; a head is one of"),
        ("multi-task", {"heads": HEADS, "label": "intent"}, "each head names its own column"),
    ],
)
def test_impossible_heads_are_refused(read: Any, kind: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        read(kind, FLIGHT, **options)


def test_labels_of_every_kind_enter_the_digest(read: Any) -> None:
    one = Examples((("a", "b"), "c"), (((0, 1, "x"),), ("y", ())), "s")
    assert one.digest() == Examples((("a", "b"), "c"), (((0, 1, "x"),), ("y", ())), "elsewhere").digest()
    assert one.digest() != Examples((("a", "b"), "c"), (((0, 1, "z"),), ("y", ())), "s").digest()
    assert one.digest() != Examples((("b", "a"), "c"), (((0, 1, "x"),), ("y", ())), "s").digest()
