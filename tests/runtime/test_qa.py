"""Question answering: the answers of the pipeline of transformers 4.57, and what it reads."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import jsonable
from attar.runtime.tasks.qa import Answer, QuestionAnswering
from attar.runtime.tokenizer import Encoded, Text, Window
from tests.runtime.qa_readers import GOLDEN, TOKENIZERS, reader


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
