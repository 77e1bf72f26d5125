"""Several tasks on one encoder: every head answers as it would alone, long texts in windows, errors say where."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.compress.gate import GateSettings, judge_all, worst
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.metrics import points
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import IGNORED, Floats, Task, jsonable, shortened
from attar.runtime.tasks.classification import Classification, TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tasks.regression import Regression, Score
from attar.runtime.tasks.tokens import Entity, TokenClassification
from attar.runtime.tokenizer import Encoded
from tests import models

SOURCE = models.tokenizer().to_str().encode()
INTENT = TextClassification(("go", "stay"))
SLOTS = TokenClassification(("O", "B-place", "I-place"), stride=2, aggregation="word")
MOOD = Regression(mean=10.0, scale=2.0)
# Eight tokens leave room for six words, of which two windows share two.
TASK = MultiTask((("intent", INTENT), ("slots", SLOTS), ("mood", MOOD)), 8)
PLAIN = MultiTask((("intent", INTENT), ("mood", MOOD)), 8)

SHORT = "we saw the film"
LONG = "the cast and the plot of the film was in the story with music"  # 14 words, each one token
PLACE = (LONG.index("film"), LONG.index("film") + 4, "place")


def encode(task: Task, *texts: str) -> Encoded:
    return task.encode(task.reader(SOURCE, 0), texts)


def tagged(encoded: Encoded, words: dict[str, int]) -> list[Floats]:
    """Logits (T, 3) a row in which these words have a tag with probability 3/5, and all others are O."""
    vocabulary = {i: w for w, i in models.tokenizer().get_vocab().items()}
    rows = []
    for ids in encoded.ids:
        row = np.zeros((len(ids), 3), dtype=np.float32)
        for place, id_ in enumerate(ids):
            row[place, words.get(vocabulary[id_], 0)] = math.log(3.0)
        rows.append(row)
    return rows


def column(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)[:, None]


def test_every_head_answers_under_its_name() -> None:
    encoded = encode(TASK, SHORT, "the plot")
    outputs = {
        "intent": np.array([[math.log(3.0), 0.0], [0.0, math.log(9.0)]], dtype=np.float32),
        "slots": tagged(encoded, {"film": 1}),
        "mood": column(1.5, -2.0),
    }
    first, second = TASK.answers(encoded, outputs)
    assert list(first) == list(second) == ["intent", "slots", "mood"]
    assert first["intent"].label == "go" and first["intent"].scores == pytest.approx({"go": 0.75, "stay": 0.25})
    assert second["intent"].label == "stay" and second["intent"].score == pytest.approx(0.9)
    assert first["slots"] == [Entity("place", pytest.approx(0.6), 11, 15, "film")]
    assert second["slots"] == []
    assert (first["mood"], second["mood"]) == (Score(13.0), Score(6.0))  # mean + scale * z
    assert json.loads(json.dumps(jsonable(first)))["slots"][0]["text"] == "film"


def test_the_first_window_of_a_long_text_decides_its_class_and_all_of_them_its_entities() -> None:
    encoded = encode(TASK, LONG, SHORT)
    assert [w.text for w in encoded.windows or []] == [0, 0, 0, 1]
    go, stay = [2.0, 0.0], [0.0, 2.0]
    outputs = {
        "intent": np.array([stay, go, go, go], dtype=np.float32),
        "slots": tagged(encoded, {"film": 1, "music": 1}),
        "mood": column(1.0, 50.0, 50.0, -1.0),
    }
    long, short = TASK.answers(encoded, outputs)
    assert (long["intent"].label, short["intent"].label) == ("stay", "go")
    assert (long["intent"].truncated, short["intent"].truncated) == (True, False)
    assert (long["mood"], short["mood"]) == (Score(12.0, True), Score(8.0))
    assert [(e.text, e.start, e.end) for e in long["slots"]] == [("film", *PLACE[:2]), ("music", 56, 61)]
    assert [e.text for e in short["slots"]] == ["film"]


def test_without_a_tagger_long_texts_are_cut() -> None:
    encoded = encode(PLAIN, LONG, SHORT)
    assert len(encoded.ids) == 2 and len(encoded.ids[0]) == 8
    logits = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    found = PLAIN.answers(encoded, {"intent": logits, "mood": column(0.0, 0.0)})
    assert [a["intent"].label for a in found] == ["stay", "go"]
    assert [a["intent"].truncated for a in found] == [a["mood"].truncated for a in found] == [True, False]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 2**16))
def test_every_head_answers_as_it_would_alone(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(models.NOISE, size=n)) for n in lengths]
    encoded = encode(TASK, *texts)
    rows = [i for i, w in enumerate(encoded.windows or []) if i == 0 or (encoded.windows or [])[i - 1].text != w.text]
    outputs: dict[str, Any] = {
        "intent": rng.normal(size=(len(encoded.ids), 2)).astype(np.float32),
        "slots": [rng.normal(size=(len(row), 3)).astype(np.float32) for row in encoded.ids],
        "mood": rng.normal(size=(len(encoded.ids), 1)).astype(np.float32),
    }
    together = TASK.answers(encoded, outputs)
    alone = dict(TASK.parts)
    cut = encode(alone["intent"], *texts)
    assert [a["intent"] for a in together] == alone["intent"].answers(cut, {"logits": outputs["intent"][rows]})
    assert [a["mood"] for a in together] == alone["mood"].answers(cut, {"logits": outputs["mood"][rows]})
    assert [a["slots"] for a in together] == alone["slots"].answers(encoded, {"logits": outputs["slots"]})


def test_two_taggers_read_the_same_windows() -> None:
    other = TokenClassification(("O", "B-person", "I-person"), stride=2, aggregation="word")
    task = MultiTask((("slots", SLOTS), ("names", other)), 8)
    encoded = encode(task, LONG)
    (found,) = task.answers(encoded, {"slots": tagged(encoded, {"film": 1}), "names": tagged(encoded, {"story": 1})})
    assert [e.text for e in found["slots"]] == ["film"]
    assert [e.text for e in found["names"]] == ["story"]
    targets = task.targets(encoded, [((PLACE,), ((LONG.index("story"), LONG.index("story") + 5, "person"),))])
    for name, word in (("slots", "film"), ("names", "story")):
        assert [int(t) for row in targets[name] for t in row if t > 0] == [1] * windows_with(encoded, word)


def windows_with(encoded: Encoded, word: str) -> int:
    id_ = models.tokenizer().token_to_id(word)
    return sum(row.count(id_) for row in encoded.ids)


def test_every_window_of_a_text_learns_the_texts_label() -> None:
    encoded = encode(TASK, LONG, SHORT)
    labels = TASK.named((("stay", (PLACE,), 14.0), ("go", ((11, 15, "place"),), 9.0)), (LONG, SHORT))
    found = TASK.targets(encoded, labels)
    assert np.array_equal(found["intent"], [1, 1, 1, 0])
    assert np.array_equal(found["mood"], column(2.0, 2.0, 2.0, -0.5))  # (label - mean) / scale
    film = models.tokenizer().token_to_id("film")
    for ids, tags in zip(encoded.ids, found["slots"], strict=True):
        assert tags.tolist() == [IGNORED, *(int(i == film) for i in ids[1:-1]), IGNORED]


def test_without_windows_there_is_one_target_a_text() -> None:
    found = PLAIN.targets(encode(PLAIN, LONG, SHORT), (("stay", 14.0), ("go", 9.0)))
    assert np.array_equal(found["intent"], [1, 0])
    assert np.array_equal(found["mood"], column(2.0, -0.5))


def test_labels_come_out_in_the_terms_of_each_head() -> None:
    given = (("1", (), "9"), ("0", [[11, 15, "place"]], 11))
    assert TASK.named(given, ("a", SHORT)) == (("stay", (), 9.0), ("go", ((11, 15, "place"),), 11.0))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((("go", (), 1.0), ("go", ())), r"^example 2: expected 3 labels, one a head, got \('go', \(\)\)"),
        (("go", "stay"), "^example 1: expected 3 labels, one a head, got 'go'"),
        ((("go", (), 1.0), ("run", (), 1.0)), r"^head 'intent': label 'run' was never seen .*\(known: go, stay\)"),
        ((("go", (), 1.0), ("go", ((0, 99, "place"),), 1.0)), "^head 'slots': example 2: .*99"),
        ((("go", ((0, 2, "food"),), 1.0), ("go", (), 1.0)), "^head 'slots': example 1: .*'food'"),
        ((("go", (), 1.0), ("go", (), "fine")), "^head 'mood': label 'fine' is not a finite number"),
    ],
)
def test_a_label_that_does_not_fit_names_its_head(labels: tuple[Any, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        TASK.named(labels, (SHORT, SHORT))


def test_pairs_of_texts_are_refused() -> None:
    with pytest.raises(DataError, match="pair of texts, but the task reads single texts"):
        TASK.named((("go", (), 1.0),), ((SHORT, SHORT),))
    with pytest.raises(DataError, match="is a list, not a string"):
        TASK.parse([SHORT, SHORT])


def test_each_head_is_measured_and_judged_by_itself() -> None:
    texts = (SHORT, "the plot", "the film")
    labels = (("go", ((11, 15, "place"),), 1.0), ("stay", ((4, 8, "place"),), 2.0), ("stay", (), 3.0))

    def answer(given: Any) -> list[Any]:
        assert tuple(given) == texts
        intents = [Classification(name, 1.0, {}) for name in ("go", "stay", "go")]
        spans = [[Entity("place", 1.0, 11, 15, "film")], [], [Entity("place", 1.0, 4, 8, "film")]]
        moods = [Score(0.1), Score(0.2), Score(7.0)]
        return [{"intent": i, "slots": s, "mood": m} for i, s, m in zip(intents, spans, moods, strict=True)]

    found = TASK.statistics(answer, texts, labels)
    assert TASK.gates == ("intent: accuracy", "slots: entity F1", "mood: Spearman")
    assert set(found) >= set(TASK.gates)
    # Two of three classes; one entity right of two given and two true; the same order of moods.
    expected = {"intent: accuracy": 200 / 3, "slots: entity F1": 50.0, "mood: Spearman": 100.0}
    assert {gate: points(gate, found[gate]) for gate in TASK.gates} == pytest.approx(expected)
    verdicts = judge_all(found, found, TASK.gates, GateSettings(margin=1.0))
    assert tuple(v.measure for v in verdicts) == TASK.gates
    assert worst(verdicts).verdict == "not enough data"  # of three examples


def test_it_survives_its_json() -> None:
    record = json.loads(json.dumps(TASK.to_json()))
    assert record["kind"] == "multi-task" and [p["name"] for p in record["parts"]] == ["intent", "slots", "mood"]
    assert task_of(record) == TASK


def test_its_length_is_that_of_every_head() -> None:
    task = shortened(TASK, 6)
    assert [part.max_length for _, part in task.parts] == [6, 6, 6]  # type: ignore[attr-defined]
    assert max(map(len, encode(task, LONG).ids)) == 6
    assert len(task.heads) == 3 and [h.name for h in task.heads] == ["intent", "slots", "mood"]


def test_a_tagger_says_which_tags_go_on() -> None:
    assert TASK.continuations("intent") is None
    found, alone = TASK.continuations("slots"), SLOTS.continuations("logits")
    assert (found is None) == (alone is None)
    if found is not None and alone is not None:
        assert np.array_equal(found, alone)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "at least two heads of different names"),
        ((("intent", INTENT),), r"at least two heads of different names, got \['intent'\]"),
        ((("a", INTENT), ("a", SLOTS)), "different names"),
        ((("a", INTENT), ("b", QuestionAnswering())), "head 'b' cannot be .*question-answering.*known, .*: text-class"),
        ((("a", INTENT), ("b", Embedding(8))), "head 'b' cannot be .*embeddings.*known, .*: text-class"),
        ((("a", INTENT), ("b", TextClassification(("x", "y"), pair=True))), "head 'b' cannot be .*pairs"),
        ((("a", INTENT), ("b", Regression(pair=True))), "head 'b' cannot be .*regression of pairs"),
        ((("a", SLOTS), ("b", replace(SLOTS, stride=0))), "one stride, got {'a': 2, 'b': 0}; give all the same"),
        ((("a", INTENT), ("the mood", MOOD)), "a head's name must be a plain word, not 'the mood'"),
        ((("a", INTENT), ("", MOOD)), "a head's name must be a plain word, not ''"),
        ((("a", INTENT), ("token_type_ids", MOOD)), "'token_type_ids' has the name of an input of the network; call"),
    ],
)
def test_heads_that_do_not_go_together_are_refused(parts: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        MultiTask(parts)


def test_options_are_those_of_its_heads() -> None:
    for key in ("aggregation", "slots.aggregation"):
        parts = dict(TASK.with_options({key: "first"}).parts)
        assert parts["slots"] == replace(dict(TASK.parts)["slots"], aggregation="first")  # type: ignore[type-var]
        assert parts["intent"] == dict(TASK.parts)["intent"]
    for key in ("intent.aggregation", "nobody.top_k", "colour"):
        with pytest.raises(SettingsError, match=rf"multi-task has no option '{key}'; known: .*slots\.aggregation"):
            TASK.with_options({key: "first"})
