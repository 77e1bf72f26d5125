"""Tags to spans and back: what seqeval reads in the same tags, what survives a round trip, which window tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.runtime.errors import DataError
from attar.runtime.tasks.base import IGNORED
from attar.runtime.tasks.spans import Scheme, Span, most_context, run_tags, scheme_of, tags_of, tags_to_spans, words_of
from attar.runtime.tasks.tokens import AGGREGATIONS, Aggregation, Entity, TokenClassification
from attar.runtime.tokenizer import Encoded, Window
from tests import models

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "entities.json").read_text("utf-8"))
SCHEMES: tuple[Scheme, ...] = ("BIO", "BILOU", "BIOES")
TYPES = ("city", "person")
# Letters alone, a combining mark, CJK (split at every character), right to left, an emoji, punctuation inside.
WORDS = ("film", "zoqx", "w-x.y", "Jose\u0301", "東京都", "שלום", "مرحبا", "🎉🎉", "a")
SOURCE = models.tokenizer().to_str().encode()


def places(tags: list[str]) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(tags))]


def perfect(task: TokenClassification, texts: list[str], spans: list[tuple[Span, ...]]) -> tuple[Encoded, Any]:
    """The rows of the texts, and the logits of a model that has learnt the targets by heart."""
    encoded = task.encode(task.reader(SOURCE, 0), texts)
    targets = task.targets(encoded, spans)["logits"]
    return encoded, {"logits": [10 * np.eye(len(task.tags), dtype=np.float32)[np.maximum(t, 0)] for t in targets]}


def found(task: TokenClassification, texts: list[str], spans: list[tuple[Span, ...]]) -> list[list[Entity]]:
    return task.answers(*perfect(task, texts, spans))


@st.composite
def marked(draw: st.DrawFn) -> tuple[str, tuple[Span, ...]]:
    """A text, and spans of whole words in it."""
    gaps = st.sampled_from((" ", "  ", "\t", "\n", "\u00a0", "\u3000"))
    text = "".join(draw(gaps) + word for word in draw(st.lists(st.sampled_from(WORDS), max_size=25)))
    words, spans, at = words_of(text), [], 0
    while at < len(words):
        length = draw(st.integers(0, 3))
        last = min(at + length, len(words)) - 1
        if length:
            spans.append((words[at][0], words[last][1], draw(st.sampled_from(TYPES))))
        at = max(last, at) + 1
    return text, tuple(spans)


def test_any_tags_are_read_as_seqeval_reads_them() -> None:
    for case in GOLDEN["decoded"]:
        expected = tuple((first, last + 1, type_) for first, last, type_ in case["entities"])
        assert tags_to_spans(case["tags"], places(case["tags"])) == expected, case["tags"]


def test_spans_are_given_in_characters_of_the_words() -> None:
    tags = ["O", "B-city", "I-city", "U-person", "L-city"]
    words = [(0, 2), (3, 6), (7, 11), (12, 13), (13, 20)]
    assert tags_to_spans(tags, words) == ((3, 11, "city"), (12, 13, "person"), (13, 20, "city"))


def test_equal_plain_tags_side_by_side_are_one_span() -> None:
    tags = ["DET", "NOUN", "NOUN", "O", "NOUN"]
    assert tags_to_spans(tags, places(tags)) == ((0, 1, "DET"), (1, 3, "NOUN"), (4, 5, "NOUN"))


def test_as_many_tags_as_words_are_needed() -> None:
    with pytest.raises(DataError, match="1 tags for 2 words; give each word one tag"):
        tags_to_spans(["O"], [(0, 1), (1, 2)])


@given(st.data(), st.sampled_from(SCHEMES))
def test_a_valid_sequence_gives_its_spans_back(data: st.DataObject, scheme: Scheme) -> None:
    known, tags, expected = tags_of(TYPES, scheme), [], []
    for length, type_ in data.draw(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(TYPES)), max_size=8)):
        if length:
            expected.append((len(tags), len(tags) + length, type_))
        tags += run_tags(length, type_, known) or ["O"]
    assert tags_to_spans(tags, places(tags)) == tuple(expected)


@pytest.mark.parametrize(
    ("scheme", "one", "two", "three"),
    [
        ("BIO", ["B-x"], ["B-x", "I-x"], ["B-x", "I-x", "I-x"]),
        ("BILOU", ["U-x"], ["B-x", "L-x"], ["B-x", "I-x", "L-x"]),
        ("BIOES", ["S-x"], ["B-x", "E-x"], ["B-x", "I-x", "E-x"]),
        ("plain", ["x"], ["x", "x"], ["x", "x", "x"]),
    ],
)
def test_a_span_is_tagged_in_the_scheme_of_the_tags(
    scheme: Scheme, one: list[str], two: list[str], three: list[str]
) -> None:
    known = tags_of(["x"], scheme)
    assert [run_tags(n, "x", known) for n in (0, 1, 2, 3)] == [[], one, two, three]
    assert scheme_of(known) == scheme


def test_models_that_know_no_b_are_taught_without_it() -> None:
    assert run_tags(3, "x", ("O", "I-x")) == ["I-x", "I-x", "I-x"]


def test_tags_are_in_a_fixed_order() -> None:
    assert tags_of(["b", "a", "b"]) == ("O", "B-a", "I-a", "B-b", "I-b")
    assert tags_of(["a"], "BILOU") == ("O", "B-a", "I-a", "L-a", "U-a")
    assert tags_of(["a"], "BIOES") == ("O", "B-a", "I-a", "E-a", "S-a")


@given(st.lists(marked(), min_size=1, max_size=3), st.sampled_from(SCHEMES), st.integers(4, 30), st.integers(0, 9))
def test_what_is_learnt_by_heart_is_found_again(
    examples: list[tuple[str, tuple[Span, ...]]], scheme: Scheme, max_length: int, stride: int
) -> None:
    task = TokenClassification(tags_of(TYPES, scheme), max_length, stride, "word")
    texts, spans = [text for text, _ in examples], [spans for _, spans in examples]
    answers = found(task, texts, spans)
    assert [tuple((e.start, e.end, e.label) for e in entities) for entities in answers] == spans
    counts = task.statistics(lambda _: answers, texts, spans)["entity F1"]
    assert counts.tolist() == [[len(s)] * 3 for s in spans]


@pytest.mark.parametrize("aggregation", ["simple", "first", "average", "max"])
def test_the_other_aggregations_find_it_too_where_words_are_plain(aggregation: Aggregation) -> None:
    task = TokenClassification(tags_of(TYPES), 16, 5, aggregation)
    text = "the zoqx film saw bzq and two friends then xyzzy qwerty music " * 3
    words = words_of(text)
    marks = ((1, 2, "city"), (3, 3, "person"), (10, 11, "city"), (13, 13, "person"), (22, 23, "person"))
    spans = tuple((words[first][0], words[last][1], type_) for first, last, type_ in marks)
    (answers,) = found(task, [text], [spans])
    assert [(e.start, e.end, e.label) for e in answers] == list(spans)


def test_targets_of_every_window() -> None:
    # [CLS] the z ##o ##q ##x film [SEP], in windows of 5 tokens of which 3 are of the text and 1 is shared.
    task = TokenClassification(("O", "B-city", "I-city"), max_length=5, stride=1)
    encoded = task.encode(task.reader(SOURCE, 0), ["the zoqx film"])
    rows = [row.tolist() for row in task.targets(encoded, [((4, 13, "city"),)])["logits"]]
    no = IGNORED
    assert rows == [[no, 0, 1, 2, no], [no, 2, 2, 2, no], [no, 2, 2, no]]


def test_targets_of_parts_of_words() -> None:
    # z ##o ##q ##x, and the two emojis are one unknown token, which is the earlier span's.
    task = TokenClassification(tags_of(TYPES))
    spans = ((2, 4, "city"), (5, 6, "person"), (6, 7, "city"))
    (row,) = task.targets(task.encode(task.reader(SOURCE, 0), ["zoqx 🎉🎉"]), [spans])["logits"]
    assert row.tolist() == [IGNORED, 0, 0, 1, 2, 3, IGNORED]


def test_targets_of_plain_tags() -> None:
    def targets(tags: tuple[str, ...]) -> list[int]:
        task = TokenClassification(tags)
        (row,) = task.targets(task.encode(task.reader(SOURCE, 0), ["the zo film"]), [((4, 6, "NOUN"),)])["logits"]
        assert isinstance(row, np.ndarray) and row.dtype == np.int64
        return list(row.tolist())

    assert targets(("DET", "NOUN")) == [IGNORED, IGNORED, 1, 1, IGNORED, IGNORED]
    assert targets(("NOUN", "O")) == [IGNORED, 1, 0, 0, 1, IGNORED]


@pytest.mark.parametrize("case", GOLDEN["scored"], ids=lambda case: f"{case['f1']:.3f}")
def test_entity_f1_is_that_of_seqeval(case: dict[str, Any]) -> None:
    task = TokenClassification(("O", "B-city", "I-city", "B-person", "I-person"), aggregation="word")
    texts = [" ".join("film" for _ in tags) for tags in case["true"]]
    gold = [tags_to_spans(tags, words_of(text)) for tags, text in zip(case["true"], texts, strict=True)]
    encoded = task.encode(task.reader(SOURCE, 0), texts)
    index = {tag: i for i, tag in enumerate(task.tags)}
    logits = [np.eye(5, dtype=np.float32)[[0, *(index[tag] for tag in tags), 0]] for tags in case["given"]]
    counts = task.statistics(lambda _: task.answers(encoded, {"logits": logits}), texts, gold)["entity F1"]
    right, given_, true = counts.sum(axis=0).tolist()
    assert counts.dtype == np.int64 and counts.shape == (4, 3)
    assert 2 * right / (given_ + true) == pytest.approx(case["f1"], abs=1e-12)


def test_an_entity_is_right_if_both_ends_and_the_type_are() -> None:
    text = "the film saw New York last night"
    gold = [[(13, 21, "city")]]

    def counts(*spans: Span) -> list[int]:
        entities = [Entity(type_, 0.9, start, end, text[start:end]) for start, end, type_ in spans]
        return list(task.statistics(lambda _: [entities], [text], gold)["entity F1"][0].tolist())

    task = TokenClassification(tags_of(TYPES))
    assert counts((13, 21, "city")) == [1, 1, 1]
    assert counts((13, 16, "city"), (13, 21, "person"), (0, 3, "city")) == [0, 3, 1]
    assert counts() == [0, 0, 1]
    assert counts((12, 22, "city")) == [1, 1, 1]  # tokens of some models hold the space before them


def test_tokens_are_grouped_before_they_are_counted() -> None:
    text = "the zoqx film saw two zoqx friends"
    spans = ((4, 13, "city"), (22, 26, "person"))
    tokens = TokenClassification(tags_of(TYPES), aggregation="none")
    (answers,) = found(tokens, [text], [spans])
    assert [e.label for e in answers][:2] == ["B-city", "I-city"]
    assert tokens.statistics(lambda _: [answers], [text], [spans])["entity F1"].tolist() == [[2, 2, 2]]


def test_plain_tags_with_hyphens_are_counted_as_the_pipeline_names_them() -> None:
    task = TokenClassification(("O", "NN-HL"))
    (answers,) = found(task, ["the film"], [((4, 8, "NN-HL"),)])
    assert [e.label for e in answers] == ["HL"]
    assert task.statistics(lambda _: [answers], ["the film"], [[(4, 8, "NN-HL")]])["entity F1"].tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(4, 3, "city")], r"example 2: span \[4, 3, 'city'\] does not lie in its text of 8 characters; count"),
        ([(0, 9, "city")], r"example 2: span \[0, 9, 'city'\] does not lie in its text of 8"),
        ([(0.0, 3, "city")], r"example 2: span \[0.0, 3, 'city'\] does not lie"),
        ([(0, 3, "film")], r"example 2: span .* type that was never seen in training \(known: city, person\); correct"),
        ([(3, 4, "city")], r"example 2: span \[3, 4, 'city'\] holds only whitespace"),
        ([(4, 8, "city"), (0, 5, "city")], r"example 2: spans \[0, 5, 'city'\] and \[4, 8, 'city'\] overlap; keep one"),
        ("city", r"example 2: 'city' is not a list of spans; give \[start, end, type\] for each, or \[\]"),
        ([(0, 3)], r"example 2: \[\(0, 3\)\] is not a list of spans"),
    ],
)
def test_spans_that_cannot_be_learnt_are_refused(spans: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TokenClassification(tags_of(TYPES)).named([[], spans], ["a", "the film"])


def test_spans_are_sorted_tuples() -> None:
    task = TokenClassification(tags_of(TYPES))
    assert task.named([[[4, 8, "city"], [0, 3, "person"]], []], ["the film", ""]) == (
        ((0, 3, "person"), (4, 8, "city")),
        (),
    )
    with pytest.raises(DataError, match="example 1 is a pair of texts"):
        task.named([[]], [("a", "b")])


def window(*offsets: tuple[int, int], subword: tuple[bool, ...] = ()) -> Window:
    """A row of these tokens between [CLS] and [SEP]."""
    count = len(offsets)
    return Window(
        0,
        np.array([(0, 0), *offsets, (0, 0)], dtype=np.int32),
        np.array([-1, *[0] * count, -1], dtype=np.int8),
        np.array([-1, *range(count), -1], dtype=np.int32),
        np.array([True, *(subword or [False] * count), True]),
    )


def test_each_token_is_read_where_it_has_most_context() -> None:
    # Windows of 6 tokens that share 3: tokens 0-5, 3-8, 6-10. As run_squad.py has it, token 4 has 1 to its right in
    # the first window and 1 to its left in the second, so the first keeps it; so with token 7 and the last window,
    # which is shorter; token 8 has 0 to its right in the second and 2 on both sides in the last.
    rows = [window(*[(i, i + 1) for i in range(a, b)]) for a, b in ((0, 6), (3, 9), (6, 11))]
    # A row is its tokens and two special ones: 8 and 8 before the third.
    first, second, third = [1, 2, 3, 4, 5], [8 + 3, 8 + 4, 8 + 5], [16 + 3, 16 + 4, 16 + 5]
    assert most_context(rows, 3).tolist() == first + second + third


def test_the_rule_of_most_context_is_that_of_squad() -> None:
    def is_max_context(spans: list[tuple[int, int]], number: int, position: int) -> bool:
        """run_squad.py, `_check_is_max_context`, by (start, length)."""
        scores = {
            i: min(position - start, start + length - 1 - position) + 0.01 * length
            for i, (start, length) in enumerate(spans)
            if start <= position < start + length
        }
        return number == max(scores, key=lambda i: (scores[i], -i))

    for room, stride, total in ((6, 3, 11), (10, 4, 29), (12, 6, 100), (5, 0, 12), (40, 19, 71), (400, 120, 560)):
        starts = range(0, total - stride, room - stride)
        spans = [(start, min(room, total - start)) for start in starts]
        rows = [window(*[(i, i + 1) for i in range(start, start + length)]) for start, length in spans]
        before = np.cumsum([0, *(length + 2 for _, length in spans)])
        expected = [
            int(before[i]) + 1 + position - start
            for position in range(total)
            for i, (start, _) in enumerate(spans)
            if is_max_context(spans, i, position)
        ]
        assert most_context(rows, stride).tolist() == expected


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_tokens_without_characters_are_no_entities(aggregation: Aggregation) -> None:
    task = TokenClassification(("O", "B-x"), aggregation=aggregation)
    text, row = "ab cd", window((0, 0), (0, 2), (3, 3), (3, 5), (5, 5))
    encoded = Encoded([[1] * 7], [False], None, [row], [text])
    (entities,) = task.answers(encoded, {"logits": [np.tile(np.float32([0, 9]), (7, 1))]})
    assert [e.text for e in entities] == ["ab", "cd"]
