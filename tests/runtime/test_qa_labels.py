"""Question answering in training and in the gate: labels, targets, and SQuAD's measures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attar.runtime.errors import DataError
from attar.runtime.metrics import points
from attar.runtime.tasks.qa import Answer, QuestionAnswering
from attar.runtime.tokenizer import Text
from tests.runtime.qa_readers import reader


def test_targets_are_the_tokens_of_the_answer_in_the_windows_that_hold_all_of_it() -> None:
    task = QuestionAnswering(max_length=16, stride=4, no_answer=True)
    context = "the bridge was built by oslo in red and the museum of oslo at the red house was built by the bridge"
    answers = ["the museum of oslo", "bridge"]
    start = context.index(answers[0])
    labels = [((start, start + 18), (0, 3)), (), ((len(context) - 6, len(context)),)]
    encoded = task.encode(reader(task), [("where", context)] * 3)
    targets = np.asarray(task.targets(encoded, labels)["logits"])
    assert targets.shape == (len(encoded.ids), 2) and targets.dtype == np.int64
    read = []
    for window, (first, last) in zip(encoded.windows or [], targets, strict=True):
        quoted = context[window.offsets[first, 0] : window.offsets[last, 1]]
        read.append((window.text, quoted if first else None))
    assert read == [
        (0, None), (0, answers[0]), (0, None), (0, None),
        (1, None), (1, None), (1, None), (1, None),
        (2, None), (2, None), (2, None), (2, answers[1]),
    ]  # fmt: skip


def test_an_answer_that_begins_with_what_the_tokenizer_drops_is_still_found() -> None:
    task = QuestionAnswering()
    encoded = task.encode(reader(task), [("where", "in \u200boslo  \u200b")] * 2)
    targets = np.asarray(task.targets(encoded, [((3, 11),), ((3, 4),)])["logits"])
    assert targets.tolist() == [[7, 7], [0, 0]]  # [CLS] w ##h ##er ##e [SEP] in oslo


def test_labels_become_checked_characters() -> None:
    task = QuestionAnswering(no_answer=True)
    texts: list[Text] = [("where", "🎉 in Oslo, in Oslo"), ("who", "nobody")]
    assert task.named([(("Oslo", 5), ("in Oslo", 11)), ()], texts) == (((5, 9), (11, 18)), ())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((("Oslo", 6),), "example 1: the answer 'Oslo' is not at character 6 .* 'slo,' stands; .*2 times, first at 5"),
        ((("🎉 in", 1),), "where ' in ' stands; it starts there at 0: correct the start"),
        ((("Rome", 5),), "where 'Oslo' stands; nor anywhere else in it: correct the answer"),
        ((("Oslo", -1),), "not at character -1 .* of 18; .*first at 5"),
        ((("Oslo", 99),), "not at character 99 .* of 18; .*first at 5"),
        ((("", 0),), "example 1: an empty answer; .*empty list"),
        ((), r"example 1: a question without an answer; set no_answer = true in \[task\]"),
    ],
)
def test_labels_that_do_not_fit_say_what_stands_there(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        QuestionAnswering().named([labels], [("where", "🎉 in Oslo, in Oslo")])


def test_single_texts_are_refused() -> None:
    with pytest.raises(DataError, match="example 1 is a single text"):
        QuestionAnswering().named([()], ["where"])
    with pytest.raises(DataError, match="question answering needs two"):
        QuestionAnswering().encode(reader(QuestionAnswering()), ["where"])


CONTEXT = "The Lord of the Rings was written by J. R. R. Tolkien, a professor at Oxford, in twelve years."
GOLD_LORD, GOLD_RINGS = (0, 21), (4, 21)  # "The Lord of the Rings" and "Lord of the Rings"
TOLKIEN, FULL = (46, 53), (37, 53)  # "Tolkien" and "J. R. R. Tolkien"


@pytest.mark.parametrize(
    ("text", "golds", "exact", "f1"),
    [
        ("lord of rings!", (GOLD_LORD,), True, 1.0),  # case, articles and punctuation do not count
        ("  LORD   of\tthe Rings", (GOLD_LORD,), True, 1.0),  # nor does white space
        ("Tolkien", (FULL,), False, 0.4),  # 1 of 1 found, 1 of 4 wanted: 2 * 1 / (1 + 4)
        ("Tolkien", (FULL, TOLKIEN), True, 1.0),  # the best of several
        ("J R Tolkien", (FULL, TOLKIEN), False, 6 / 7),  # 2 * 3 / (3 + 4), better than 2 * 1 / (3 + 1)
        ("Tolkien Tolkien", (TOLKIEN,), False, 2 / 3),  # a word counts as often as it is there
        ("in Oxford", (TOLKIEN,), False, 0.0),
        ("", (TOLKIEN,), False, 0.0),
        ("", (), True, 1.0),
        ("Tolkien", (), False, 0.0),
        ("the", (), True, 1.0),  # nothing is left of it
        ("Anthem", (GOLD_RINGS,), False, 0.0),  # articles are words, not parts of words
        ("Ringsa", (GOLD_RINGS,), False, 0.0),
        ("Tolkien", ((0, 3), TOLKIEN), True, 1.0),
        ("", ((0, 3), TOLKIEN), False, 0.0),  # "The" counts only where it is the only one
        ("a", ((0, 3),), True, 1.0),
    ],
)
def test_exact_match_and_f1_are_squads(text: str, golds: tuple[tuple[int, int], ...], exact: bool, f1: float) -> None:
    assert (CONTEXT[slice(*GOLD_LORD)], CONTEXT[slice(*FULL)]) == ("The Lord of the Rings", "J. R. R. Tolkien")
    task = QuestionAnswering(no_answer=True)
    found = task.statistics(
        lambda texts: [Answer(text, 1.0, 0, 0, ())] * len(texts), [("who", CONTEXT)] * 2, [golds] * 2
    )
    assert found["exact match"].tolist() == [exact] * 2 and found["exact match"].dtype == np.bool_
    assert found["F1"].tolist() == pytest.approx([f1] * 2, abs=1e-12) and found["F1"].dtype == np.float64
    assert points("F1", found["F1"]) == pytest.approx(100 * f1)
