"""Question answering: the answers of the pipeline of transformers 4.57, labels, targets, and SQuAD's measures."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.metrics import points
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import jsonable
from attar.runtime.tasks.qa import Answer, QuestionAnswering
from attar.runtime.tokenizer import Encoded, Text, Tokenizer, Window

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/qa.json").read_text(encoding="utf-8"))
TOKENIZERS = {kind: json.dumps(record).encode() for kind, record in GOLDEN["tokenizers"].items()}
READERS: dict[Any, Tokenizer] = {}


def reader(task: QuestionAnswering, kind: str = "wordpiece") -> Tokenizer:
    key = kind, task.max_length, task.stride
    if key not in READERS:
        READERS[key] = task.reader(TOKENIZERS[kind], 0)
    return READERS[key]


def logits(ids: list[int], salt: int, width: float, null: float) -> NDArray[np.float32]:
    """The numbers that the model of make_qa.py gives."""
    place = np.arange(len(ids))[:, None] * 104_729 + np.array([[1, 2]]) * 15_485_863
    x = (np.array(ids)[:, None] * 7_919 + place + salt * 1_299_709) % 1_000_003
    for _ in range(3):
        x = (x * x + 48_271) % 1_000_003
    found = (x / 1_000_003 - 0.5) * width
    found[0] += null
    return found.astype(np.float32)


def answered(
    task: QuestionAnswering, texts: list[Text], kind: str, salt: int = 1, width: float = 9.0, null: float = 0.0
) -> list[Answer]:
    encoded = task.encode(reader(task, kind), texts)
    return task.answers(encoded, {"logits": [logits(row, salt, width, null) for row in encoded.ids]})


def pointed(task: QuestionAnswering, text: Text, marks: dict[tuple[int, int], float], null: float = 0.0) -> Answer:
    """The answer of a network that sees the given spans of characters, with these logits, in every window."""
    encoded = task.encode(reader(task), [text])
    rows = []
    for window in encoded.windows or []:
        row = np.full((len(window.words), 2), -20.0, dtype=np.float32)
        row[0] = null
        for (start, end), strength in marks.items():
            context = window.sequence == 1
            row[context & (window.offsets[:, 0] == start), 0] = strength
            row[context & (window.offsets[:, 1] == end), 1] = strength
        rows.append(row)
    return task.answers(encoded, {"logits": rows})[0]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['salt']}-{c['tokenizer']}-{c['max_length']}")
def test_answers_are_those_of_the_pipeline(case: dict[str, Any]) -> None:
    task = QuestionAnswering(
        case["max_length"], case["stride"], case["max_answer"], top_k=case["top_k"], no_answer=case["no_answer"]
    )
    drawn = (case["tokenizer"], case["salt"], case["width"], case["null"])
    answer = answered(task, [(case["question"], case["context"])], *drawn)[0]
    # The pipeline fills up with spans of score 0 that end before they start, and takes blanks for answers.
    expected = [
        (text.lower(), pytest.approx(min(score, 1.0), rel=1e-6), *place)
        for (text, score, start, end), place in zip(case["found"], case["places"], strict=True)
        if score > 0 and (text.strip() or (start == end == 0 and case["no_answer"]))
    ]
    found = [(c.text.lower(), c.score, c.start, c.end) for c in answer.candidates]
    assert found[: len(expected)] == expected
    assert len(found) <= case["top_k"]
    assert all(c.text == case["context"][c.start : c.end] for c in answer.candidates)
    assert not answer.truncated


def test_the_pipeline_was_asked_all_there_is() -> None:
    cases = GOLDEN["cases"]
    assert {c["top_k"] for c in cases} == {1, 3, 5} and {c["no_answer"] for c in cases} == {True, False}
    found = [(case, one, place) for case in cases for one, place in zip(case["found"], case["places"], strict=True)]
    assert any(score > 1 for _, (_, score, _, _), _ in found)
    assert any(text == "" and case["no_answer"] and score > 0.5 for case, (text, score, _, _), _ in found)
    assert sum([start, end] == place for _, (_, _, start, end), place in found) > 100


def test_a_text_is_reported_where_it_is_likeliest() -> None:
    task = QuestionAnswering(max_length=16, stride=0, top_k=2)
    context = "at oslo " + "the bridge was built by " * 6 + "oslo"
    late = context.rindex("oslo")
    found = pointed(task, ("where", context), {(3, 7): -3.0, (late, late + 4): 6.0}, null=0.0)
    assert (found.text, found.start, found.end) == ("oslo", late, late + 4)
    assert found.score == pytest.approx(0.997, abs=0.01)


def test_windows_that_share_an_answer_do_not_make_it_more_than_certain() -> None:
    task = QuestionAnswering(max_length=24, stride=12)
    context = "the bridge was built by " * 6
    shared = context.index("bridge", 30)
    found = pointed(task, ("who", context), {(shared, shared + 6): 9.0})
    assert (found.text, found.score) == ("bridge", 1.0)


def test_the_window_that_believes_least_in_no_answer_decides() -> None:
    context = "the bridge was built by " * 6 + "oslo"
    place = (context.index("oslo"), len(context))
    task = QuestionAnswering(max_length=16, stride=0, no_answer=True)
    assert pointed(task, ("where", context), {place: 4.0}).text == "oslo"
    nothing = pointed(task, ("where", context), {place: -4.0})
    assert (nothing.text, nothing.start, nothing.end) == ("", 0, 0)
    assert nothing.score == pytest.approx(1 / (1 + np.exp(-4.0)) ** 2, rel=1e-4)
    assert pointed(task.with_options({"no_answer": False}), ("where", context), {place: -4.0}).text == "oslo"


def test_answers_are_whole_words_and_no_longer_than_asked() -> None:
    context = "a lighthouse at Ouagadougou stands"
    start, end = context.index("gado"), context.index("gado") + 1
    assert pointed(QuestionAnswering(), ("where", context), {(start, end): 9.0}).text == "Ouagadougou"
    marks = {(2, 7): 9.0, (28, 34): 8.0}
    assert pointed(QuestionAnswering(max_answer=40), ("what", context), {**marks, (2, 34): 0.0}).start == 2
    assert len(pointed(QuestionAnswering(max_answer=1, top_k=9), ("what", context), marks).text.split()) == 1


def test_a_context_without_any_token_has_no_answer() -> None:
    for no_answer, count in ((False, 0), (True, 1)):
        found = answered(QuestionAnswering(no_answer=no_answer), [("who", "\u200b")], "wordpiece")[0]
        assert (found.text, found.start, found.end, len(found.candidates)) == ("", 0, 0, count)
        assert found.score == (1.0 if no_answer else 0.0)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(("max_length", "stride"), [(16, 8), (24, 0), (48, 24), (384, 128)])
def test_long_questions_are_cut_and_the_answer_says_so(kind: str, max_length: int, stride: int) -> None:
    task = QuestionAnswering(max_length, stride)
    texts: list[Text] = [("why, oh why, 🎉🎉 " * 80, "in 1893 " * 40), ("?", "in 1893 " * 40)]
    encoded = task.encode(reader(task, kind), texts)
    assert encoded.truncated == [True, False]
    assert [a.truncated for a in answered(task, texts, kind)] == [True, False]
    for window in encoded.windows or []:
        assert len(window.sequence) <= max_length
        assert (window.sequence == 0).sum() <= task.max_question
    # All of the context is still read, whatever the question.
    last = max(int(w.offsets[:, 1][w.sequence == 1].max()) for w in encoded.windows or [] if w.text == 0)
    assert last >= len(("in 1893 " * 40).strip())


def test_a_question_of_as_many_tokens_as_allowed_is_kept() -> None:
    task = QuestionAnswering(max_question=4)
    encoded = task.encode(reader(task), [("was built by the", "x"), ("was built by the bridge", "x")])
    assert encoded.truncated == [False, True]
    assert encoded.ids[0] == encoded.ids[1]


def test_a_context_of_a_hundred_thousand_words_needs_little_memory() -> None:
    words, share = 100_000, 128
    rows = range(0, words, 384 - 12 - share)
    offsets = [np.zeros((384, 2), dtype=np.int32) for _ in rows]
    sequence = np.array([-1, *[0] * 9, -1, *[1] * 372, -1], dtype=np.int8)
    windows, outputs = [], []
    for row, first in enumerate(rows):
        place = np.arange(first, first + 372).clip(max=words - 1)
        offsets[row][11:383] = np.column_stack([place * 7, place * 7 + 6])
        found = np.zeros((384, 2), dtype=np.float32)
        found[11:383][(place == 77_777)] = 11.0
        windows.append(Window(0, offsets[row], sequence, np.where(sequence == 1, np.arange(384), -1).astype(np.int32)))
        outputs.append(found)
    context = "".join(f"{word:06d} " for word in range(words))
    encoded = Encoded([[]] * len(windows), [False], None, windows, [("which", context)])
    tracemalloc.start()
    found = QuestionAnswering(top_k=5).answers(encoded, {"logits": outputs})[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.text == "077777" == context[found.start : found.end]
    assert peak < 4e6  # bytes; an outer product of every window would be 1.2e6 each


TEXT = st.text(st.sampled_from("abc the  \t\n.,é👩‍🚀🎉\u0301東京\u200b\u0000\ud83cĠ1☃"), min_size=1, max_size=120)
TASKS = [QuestionAnswering(16, 8, 4, 3), QuestionAnswering(32, 0, 15, 5, no_answer=True), QuestionAnswering(top_k=2)]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.sampled_from(TASKS), st.sampled_from([*TOKENIZERS]))
def test_answers_quote_the_context_and_do_not_depend_on_company(
    texts: list[Text], task: QuestionAnswering, kind: str
) -> None:
    found = answered(task, texts, kind)
    for text, answer in zip(texts, found, strict=True):
        for one in (answer, *answer.candidates):
            assert 0 <= one.start <= one.end <= len(text[1]) and one.text == text[1][one.start : one.end]
            assert one.text.strip() or (one.text == "" and one.start == 0)
        scores = [c.score for c in answer.candidates]
        assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
        assert [answer] == answered(task, [text], kind)
        json.dumps(jsonable(answer))


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


def test_inputs_are_pairs_with_something_in_both() -> None:
    task = QuestionAnswering()
    for item in (["who", "me"], ("who", "me"), {"context": "me", "question": "who"}):
        assert task.parse(item) == ("who", "me")
    for item in ("who", ["who"], ["who", 1], {"question": "who"}, {"text": "who", "text_pair": "me"}, None):
        with pytest.raises(DataError, match=r"give \[question, context\]"):
            task.parse(item)
    with pytest.raises(DataError, match="has an empty question; give"):
        task.parse([" \n", "me"])
    with pytest.raises(DataError, match="has an empty context; give"):
        task.parse(["who", ""])


def test_the_task_survives_json_and_takes_its_options_only() -> None:
    task = QuestionAnswering(256, 64, 30, 2, 40, True)
    assert task_of(json.loads(json.dumps(task.to_json()))) == task
    assert task.with_options({"top_k": 7}).top_k == 7
    with pytest.raises(SettingsError, match="known: top_k, max_answer, no_answer"):
        task.with_options({"stride": 3})
    for options in ({"top_k": 0}, {"max_answer": "3"}, {"top_k": True}, {"no_answer": 1}):
        with pytest.raises(SettingsError, match=f"{next(iter(options))} must be"):
            task.with_options(options)
    with pytest.raises(SettingsError, match=r"more than half of max_length, 128: .* set stride = 42"):
        QuestionAnswering(max_length=128)
    with pytest.raises(SettingsError, match="max_length must be a whole number of at least 16, not 8"):
        QuestionAnswering(max_length=8, stride=0)
    assert [(h.name, h.outputs, h.reads, h.objective) for h in task.heads] == [("logits", 2, "tokens", "span")]
    assert task.pairs and task.gates == ("F1",)
