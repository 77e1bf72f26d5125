"""Splits that share no text, whatever the task; crops; data for a task by its name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.distill.data import assets
from attar.distill.data.assets import resolve_data
from attar.distill.data.augment import crops
from attar.distill.data.split import Splits, check_disjoint, normalise, remove_overlap, split
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, SettingsError

WORDS = st.lists(st.sampled_from(["good", "Good", "bad!", "BAD", "film", "ﬁlm", "-", ":)"]), min_size=1, max_size=3)
TEXTS = st.lists(st.one_of(WORDS.map(" ".join), st.text(min_size=1)), min_size=1, max_size=40)


def numbered(count: int) -> Examples:
    return Examples(tuple(f"text {n}" for n in range(count)), tuple(str(n % 3) for n in range(count)), "made up")


@given(texts=TEXTS, dev=st.floats(0, 0.4), test=st.integers(0, 3), seed=st.integers(0, 9))
def test_no_normalised_sentence_is_in_two_splits_or_lost(texts: list[str], dev: float, test: int, seed: int) -> None:
    try:
        splits = split(Examples(tuple(texts), None, "made up"), dev=dev, test=test, seed=seed)
    except DataError:
        return  # too few texts for the sizes asked
    parts = [{normalise(text) for text in part.texts} for part in (splits.train, splits.dev, splits.test)]
    assert parts[0].isdisjoint(parts[1]) and parts[0].isdisjoint(parts[2]) and parts[1].isdisjoint(parts[2])
    assert set().union(*parts) == {normalise(text) for text in texts}
    assert sum(len(part) for part in parts) + splits.duplicates == len(texts)
    assert len(splits.test) == test
    check_disjoint(splits)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Good film!", "good   FILM", True),
        ("ﬁne", "FINE", True),
        ("Straße", "STRASSE", True),
        ("love it \u2764\ufe0f", "love it", True),
        ("good film", "goodfilm", False),
        (":-)", ":-(", False),
        ("\u0915\u0940", "\u0915\u093e", False),  # two Hindi words that differ in a vowel sign
    ],
)
def test_what_counts_as_the_same_sentence(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) is same


def test_the_first_duplicate_stays_and_contradictions_go() -> None:
    texts = ("Good film", "good film!", "so so", "So so.", "bad film", "fine")
    examples = Examples(texts, ("pos", "pos", "pos", "neg", "neg", "pos"), "made up")
    splits = split(examples, dev=1, test=1, seed=0)
    parts = (splits.train, splits.dev, splits.test)
    kept = {text: label for part in parts for text, label in zip(part.texts, part.labels or (), strict=True)}
    assert kept == {"Good film": "pos", "bad film": "neg", "fine": "pos"}
    assert (splits.duplicates, splits.contradictions) == (1, 2)


@pytest.mark.parametrize(
    ("labels", "contradict"),
    [
        (("a", "b"), True),
        ((("a",), ("a", "b")), True),
        ((("a",), ()), True),
        (((), ()), False),
        ((3.0, 3.5), False),
        ((((0, 4, "city"),), ((0, 8, "city"),)), False),
        (((), ((0, 4, "city"),)), False),
        (((("Rome", 3),), (("in Rome", 0),)), False),
        ((("intent", ()), ("other", ())), False),
    ],
)
def test_only_classes_contradict_each_other(labels: tuple[object, object], contradict: bool) -> None:
    examples = Examples(("Same text", "same text!", "other", "third"), (*labels, labels[0], labels[0]), "made up")
    splits = split(examples, dev=0, test=1, seed=0)
    kept = {
        text: label
        for part in (splits.train, splits.test)
        for text, label in zip(part.texts, part.labels or (), strict=True)
    }
    assert kept.get("Same text") == (None if contradict else labels[0])
    assert (splits.duplicates, splits.contradictions) == ((0, 2) if contradict else (1, 0))


def test_a_pair_is_the_same_only_where_both_texts_are() -> None:
    pairs = (("Who?", "Ada did."), ("who", "ada DID"), ("Who?", "Bob did."), ("Ada did.", "Who?"), ("Who? Ada", "did."))
    splits = split(Examples(pairs, None, "made up"), dev=1, test=1, seed=0)
    kept = splits.train.texts + splits.dev.texts + splits.test.texts
    assert set(kept) == set(pairs) - {pairs[1]}
    assert splits.duplicates == 1
    check_disjoint(splits)
    left = remove_overlap(Examples(pairs, None, "pool"), Examples((("WHO", "ada did"), "Who? Bob did."), None, "t"))
    assert left.texts == pairs[2:]
    with pytest.raises(DataError, match=r"\('Who\?', 'Ada did\.'\) is in both train and test"):
        check_disjoint(
            Splits(Examples(pairs[1:2], None, "one"), Examples((), None, "no"), Examples(pairs[:1], None, "x"))
        )


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_the_form_of_a_pair_tells_its_two_texts_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    same = normalise(one[0]) == normalise(other[0]) and normalise(one[1]) == normalise(other[1])
    assert (normalise(one) == normalise(other)) is same


def test_pairs_are_not_cropped() -> None:
    text = "one two three four five six seven eight nine ten"
    found = crops(Examples(((text, text), text), None, "made up"), per_text=5, seed=0)
    assert found.texts
    assert all(isinstance(crop, str) and crop in text and crop != text for crop in found.texts)
    assert crops(Examples(((text, text),), None, "made up"), per_text=5, seed=0).texts == ()


def test_assets_serve_tasks_that_learn_from_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Examples(("fine film", "dull film"), ("positive", "negative"), "asset:vader-movie")
    monkeypatch.setitem(assets._DATA, "vader-movie", lambda cache: corpus)
    for kind in ("text-classification", "embeddings"):
        assert resolve_data("asset:vader-movie", kind=kind) == corpus
    for kind in ("token-classification", "regression", "multi-task"):
        with pytest.raises(SettingsError, match=f"asset:vader-movie: is no labelled data for {kind}"):
            resolve_data("asset:vader-movie", kind=kind)
        assert resolve_data("asset:vader-movie", kind=kind, require_labels=False).labels is None
    with pytest.raises(SettingsError, match="no labelled data for question-answering"):
        resolve_data("asset:vader-movie", kind="question-answering", require_labels=False)
    with pytest.raises(SettingsError, match="no task 'nope'; the known ones are text-classification"):
        resolve_data("asset:vader-movie", kind="nope")


def test_a_path_is_read_for_its_task(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"tokens": ["to", "Bonn"], "intent": "go", "where": ["O", "B-city"]}\n')
    spec = str(tmp_path / "a.jsonl")
    spans = resolve_data(spec, kind="token-classification", label="where")
    assert (spans.texts, spans.labels) == (("to Bonn",), (((3, 7, "city"),),))
    heads = (("intent", "text-classification", "intent"), ("slots", "token-classification", "where"))
    assert resolve_data(spec, kind="multi-task", heads=heads).labels == (("go", ((3, 7, "city"),)),)


def test_the_seed_decides() -> None:
    once, again, other = (split(numbered(100), dev=0.1, test=20, seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert once.test.texts != other.test.texts
    assert (len(once.train), len(once.dev), len(once.test)) == (70, 10, 20)


def test_a_fraction_asked_for_is_never_empty() -> None:
    assert len(split(numbered(5), dev=0.01, test=0.0, seed=0).dev) == 1


@pytest.mark.parametrize("size", [-1, -0.1, 1.0, 1.5, float("nan"), True])
def test_impossible_sizes_are_refused(size: float) -> None:
    with pytest.raises(SettingsError, match="dev="):
        split(numbered(10), dev=size, test=1, seed=0)


def test_nothing_left_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="10 different texts cannot give 5 for dev, 5 for test"):
        split(numbered(10), dev=5, test=0.5, seed=0)


def test_overlap_is_removed_by_normal_form() -> None:
    examples = Examples(("A film.", "b", "c"), ("x", "y", "z"), "pool")
    left = remove_overlap(examples, Examples(("a FILM",), None, "t"), Examples(("C!",), None, "d"))
    assert (left.texts, left.labels, left.source) == (("b",), ("y",), "pool")


def test_a_shared_sentence_is_named() -> None:
    part = Examples(("a film",), None, "one")
    with pytest.raises(DataError, match=r"'A film!' is in both train and test; remove it"):
        check_disjoint(Splits(part, Examples((), None, "none"), Examples(("A film!",), None, "two")))
