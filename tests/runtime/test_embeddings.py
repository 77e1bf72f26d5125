"""Embeddings: vectors that can be shortened and compared, judged by similarity scores or by retrieval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks import embeddings
from attar.runtime.tasks.base import Head
from attar.runtime.tasks.embeddings import Embedding, Vector
from attar.runtime.tokenizer import Encoded

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "sequence_tasks.json").read_text())
WORDS = ("[UNK]", "query", ":", "good", "film")


def rows(count: int, cut: bool = False) -> Encoded:
    return Encoded([[1]] * count, [cut] * count)


def vector(*values: float) -> Vector:
    return Vector(np.array(values, dtype=np.float32))


def answered(task: Embedding, vectors: Any) -> list[Vector]:
    array = np.array(vectors, dtype=np.float32)
    return task.answers(rows(len(array)), {"sentence_embedding": array})


def test_vectors_are_shortened_and_normalised_again() -> None:
    whole = [[0.6, 0.0, 0.8], [0.36, 0.48, 0.8]]
    np.testing.assert_array_equal(np.asarray(answered(Embedding(3), whole)), np.float32(whole))
    np.testing.assert_array_equal(np.asarray(answered(Embedding(3, truncate=3), whole)), np.float32(whole))
    short = answered(Embedding(3, truncate=2), whole)
    np.testing.assert_allclose(np.asarray(short), [[1, 0], [0.6, 0.8]], rtol=1e-6)
    raw = answered(Embedding(3, truncate=2, normalise=False), whole)
    np.testing.assert_array_equal(np.asarray(raw), np.float32([[0.6, 0.0], [0.36, 0.48]]))


@given(arrays(np.float32, (3, 8), elements=st.floats(-10, 10, width=16)), st.integers(1, 7))
def test_a_shortened_vector_has_length_1(vectors: np.ndarray, keep: int) -> None:
    for answer, given_ in zip(answered(Embedding(8, truncate=keep), vectors), vectors, strict=True):
        assert answer.values.shape == (keep,) and answer.values.dtype == np.float32
        length = float(np.linalg.norm(answer.values))
        assert length == pytest.approx(1, abs=1e-5) if given_[:keep].any() else length == 0


def test_an_answer_says_that_its_text_was_cut() -> None:
    found = Embedding(2).answers(rows(1, cut=True), {"sentence_embedding": np.ones((1, 2), dtype=np.float32)})[0]
    assert found.truncated and repr(found) == "Vector([1.000, 1.000], 2 dimensions, truncated=True)"
    assert repr(vector(0.1, 0.2, -0.3, 0.4)) == "Vector([0.100, 0.200, -0.300, ...], 4 dimensions)"


def test_numpy_takes_a_vector_for_an_array() -> None:
    one = vector(1, 2)
    assert np.asarray(one) is one.values or np.shares_memory(np.asarray(one), one.values)
    assert not np.shares_memory(np.array(one), one.values)
    assert np.asarray(one, dtype=np.float64).dtype == np.float64
    assert np.asarray([one, one, one]).shape == (3, 2)
    np.testing.assert_array_equal(np.array(one, copy=False), [1, 2])
    with pytest.raises(ValueError, match="copy"):
        np.asarray(one, dtype=np.float64, copy=False)


def test_similarity_by_hand() -> None:
    assert vector(3, 4).similarity(vector(4, 3)) == pytest.approx(24 / 25)
    assert vector(2, 0).similarity(vector(0, 5)) == 0
    assert vector(1, 1).similarity(vector(-7, -7)) == pytest.approx(-1)
    assert vector(0, 0).similarity(vector(1, 1)) == 0
    with pytest.raises(DataError, match="2 and 3 dimensions cannot be compared"):
        vector(1, 1).similarity(vector(1, 1, 1))


@given(*[arrays(np.float32, 5, elements=st.floats(-1e3, 1e3, width=32).filter(lambda x: not 0 < abs(x) < 1e-3))] * 2)
def test_similarity_is_the_cosine_and_never_beyond_1(a: np.ndarray, b: np.ndarray) -> None:
    found = Vector(a).similarity(Vector(b))
    long = math.hypot(*a.tolist()) * math.hypot(*b.tolist())
    assert -1 <= found <= 1 and found == Vector(b).similarity(Vector(a))
    assert found == pytest.approx(float(a.astype(float) @ b) / long if long else 0, abs=1e-5)


def test_heads_and_gate() -> None:
    reads = [Embedding(4, pooling=p).heads for p in ("mean", "cls", "max")]
    assert reads == [(Head("sentence_embedding", 4, r, "vector", unit=True),) for r in ("mean", "first", "max")]
    assert Embedding(4, truncate=2).heads[0].outputs == 4
    assert Embedding(4).gates == ("recall@1",)
    assert Embedding(4, judged_by="Spearman").gates == ("Spearman",)


def test_the_prompt_goes_before_every_text() -> None:
    backend = Backend(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    task = Embedding(4, prompt="query: ")
    tokenizer = task.reader(backend.to_str().encode(), 0)
    assert task.encode(tokenizer, ["good film", "film"]).ids == [[1, 2, 3, 4], [1, 2, 4]]
    assert Embedding(4).encode(tokenizer, ["good film"]).ids == [[3, 4]]
    with pytest.raises(DataError, match="two texts of a pair one by one"):
        task.encode(tokenizer, [("good", "film")])


def test_targets_are_equal_for_equal_labels() -> None:
    found = Embedding(4).targets(rows(4), ["dog", "cat", "dog", "eel"])["sentence_embedding"]
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [1, 0, 1, 2])
    with pytest.raises(DataError, match="scores of pairs are for evaluation; for fine-tuning give single texts"):
        Embedding(4).targets(rows(1), [0.5])


def test_labels_are_classes_of_texts_or_scores_of_pairs() -> None:
    task = Embedding(4)
    assert task.named(["dog", "1"], ["x", "y"]) == ("dog", "1")
    assert task.named(["0.5", 4], [("x", "y"), ("y", "z")]) == (0.5, 4.0)
    assert task.named([], []) == ()
    with pytest.raises(DataError, match="'dog' is not a finite number"):
        task.named(["dog"], [("x", "y")])
    with pytest.raises(DataError, match=r"0\.5 is not the name of a class"):
        task.named([0.5], ["x"])
    with pytest.raises(DataError, match="some examples are single texts and some are pairs"):
        task.named(["a", "b"], ["x", ("y", "z")])


def test_pairs_are_judged_by_their_cosines() -> None:
    known = {"x": vector(1, 0), "y": vector(0, 2), "z": vector(3, 3)}
    asked: list[Sequence[Any]] = []

    def answer(texts: Sequence[Any]) -> list[Vector]:
        asked.append(list(texts))
        return [known[t] for t in texts]

    found = Embedding(2).statistics(answer, [("x", "y"), ("x", "z"), ("z", "z")], [0, 2.5, "5"])
    assert list(found) == ["Spearman"] and found["Spearman"].dtype == np.float64
    np.testing.assert_allclose(found["Spearman"], [[0, 0], [math.sqrt(0.5), 2.5], [1, 5]], atol=1e-6)
    assert [len(texts) for texts in asked] == [6]


def judged(vectors: Any, classes: Sequence[str]) -> Any:
    answers = [Vector(np.array(v, dtype=np.float32)) for v in vectors]
    return Embedding(2).statistics(lambda texts: answers, ["x"] * len(answers), classes)


def test_retrieval_by_hand() -> None:
    degrees = {"dog": (0, 10), "cat": (14, 40), "eel": (200,)}
    at = [(math.cos(math.radians(d)), math.sin(math.radians(d))) for angles in degrees.values() for d in angles]
    found = judged(at, ["dog", "dog", "cat", "cat", "eel"])
    assert list(found) == ["recall@1", "recall@10"]
    # 0: nearest 10, a dog. 10: nearest 14, a cat. 14: nearest 10, a dog. 40: nearest 14, a cat. The eel is not asked.
    np.testing.assert_array_equal(found["recall@1"], [True, False, False, True])
    np.testing.assert_array_equal(found["recall@10"], [True] * 4)


@pytest.mark.parametrize("chunk", [1000, 7])
def test_retrieval_finds_what_scikit_learn_finds(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CHUNK", chunk)
    golden = GOLDEN["retrieval"]
    found = judged(golden["vectors"], [str(c) for c in golden["classes"]])
    for measure in ("recall@1", "recall@10"):
        np.testing.assert_array_equal(found[measure], golden[measure])


@given(st.permutations(range(12)), st.floats(0.0078125, 128, width=32))
def test_retrieval_ignores_lengths_and_follows_the_texts(order: list[int], length: float) -> None:
    rng = np.random.default_rng(0)
    vectors, classes = rng.normal(size=(12, 2)), list("abc") * 4
    before = judged(vectors, classes)["recall@1"]
    after = judged(vectors[order] * length, [classes[i] for i in order])["recall@1"]
    np.testing.assert_array_equal(after, before[order])


@pytest.mark.parametrize("value", [1.0, 0.0, math.nan])
def test_a_model_that_collapsed_finds_nothing(value: float) -> None:
    found = judged(np.full((24, 2), value), ["a", "b"] * 12)
    assert not found["recall@1"].any() and not found["recall@10"].any()


def test_retrieval_needs_a_class_of_two_texts() -> None:
    for classes in (["a", "b", "c"], []):
        with pytest.raises(DataError, match="no class has two texts"):
            judged([[1, 0]] * len(classes), classes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dimensions": 0}, "at least 1 dimension"),
        ({"pooling": "sum"}, "pooling is one of mean, cls, max, not 'sum'"),
        ({"truncate": 5}, "truncate must be between 1 and the model's 4 dimensions"),
        ({"truncate": -1}, "truncate must be"),
        ({"truncate": "2"}, "not '2'"),
        ({"truncate": True}, "not True"),
        ({"prompt": None}, "prompt must be a string"),
        ({"judged_by": "accuracy"}, "judged_by is Spearman or recall@1, not 'accuracy'"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Embedding(**{"dimensions": 4, **settings})


def test_one_text_is_read_at_a_time() -> None:
    assert not Embedding(4).pairs
    assert Embedding(4).parse({"text": "a film"}) == Embedding(4).parse("a film") == "a film"
