"""The rated sentences: three parts that share no document and no text, the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from attar.distill.data import assets, vader
from attar.distill.data.assets import fetch, resolve_data, vader_ratings
from attar.distill.data.split import normalise
from attar.distill.data.vader import FILES, PARTS, Sentence, part_of, ratings, sentences
from attar.runtime.data import Examples
from attar.runtime.errors import AssetError, DataError, SettingsError

Parts = dict[str, Examples]


def write(folder: Path, **corpora: str) -> Path:
    """The four files with the given lines, or none, in the form of the archive: CR LF, no line end at the end."""
    for corpus, file in FILES.items():
        (folder / file).write_bytes(corpora.get(corpus, "").replace("\n", "\r\n").encode())
    return folder


@pytest.mark.parametrize(
    ("corpus", "document", "part"),
    # The first 16 digits of `printf amazon/1 | sha256sum`, modulo 100: below 15 test, below 20 dev.
    [
        ("amazon", "1", "test"),  # 8d5a6e5246f98daf: 3
        ("movie", "14", "test"),  # f3a391727409cbe2: 14
        ("amazon", "39", "dev"),  # 4dd24df8f5a3c373: 15
        ("movie", "11", "dev"),  # 37dbe5b1623bae8c: 16
        ("movie", "3", "train"),  # 3e27d14b7b44cd3c: 56
        ("nyt", "500", "train"),  # c6bf2d4dadad0977: 55
        ("tweets", "4200", "train"),  # 5aecb42a42f6c6ae: 42
    ],
)
def test_the_part_is_a_hash_of_corpus_and_document(corpus: str, document: str, part: str) -> None:
    assert part_of(corpus, document) == part


def test_a_repeated_text_stays_in_test_then_in_dev_as_it_was_rated_first(tmp_path: Path) -> None:
    # Documents: movie 3 train, 11 dev, 14 test; amazon 1 test, 39 dev; nyt 500 train.
    folder = write(
        tmp_path,
        movie="3\t1.5\tIn all three\n11\t2.5\tIn all three.\n14\t-3\tIN ALL THREE!",
        amazon="1_1\t0.5\tin test twice\n1_2\t1\tIn test, twice\n39_1\t-1\tdev and train\n39_2\t4\tonly dev",
        nyt="500_1\t0\tDev and train.\n500_2\t-0.25\tonly\ttrain\n500_3\t-4\tOnly train?",
    )
    parts = {part: ratings(folder, part) for part in PARTS}
    assert (parts["test"].texts, parts["test"].labels) == (("IN ALL THREE!", "in test twice"), (-3.0, 0.5))
    assert (parts["dev"].texts, parts["dev"].labels) == (("dev and train", "only dev"), (-1.0, 4.0))
    assert (parts["train"].texts, parts["train"].labels) == (("only\ttrain",), (-0.25,))


@pytest.mark.parametrize("line", ["3\t1.5", "3\tmuch\ta film", "a film"])
def test_a_line_that_is_no_rating_is_named(tmp_path: Path, line: str) -> None:
    folder = write(tmp_path, tweets=f"1\t2\tgood\n{line}")
    with pytest.raises(DataError, match=r"tweets_GroundTruth\.txt: line 2: is not 'id, rating, text'; delete"):
        ratings(folder, "train")


def test_an_unknown_part_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="no part 'valid'; the known ones are train, dev, test"):
        ratings(tmp_path, "valid")
    with pytest.raises(AssetError, match=r"no data 'asset:vader-ratings/valid'.*ratings/train.*/dev.*/test"):
        resolve_data("asset:vader-ratings/valid", kind="regression")
    with pytest.raises(AssetError, match=r"no data 'asset:vader-ratings'.*asset:vader-ratings/train"):
        resolve_data("asset:vader-ratings", kind="regression")


def test_ratings_are_for_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "asset:vader-ratings/train"
    corpus = Examples(("fine film", "dull film"), (2.5, -1.75), name)
    monkeypatch.setitem(assets._DATA, "vader-ratings/train", lambda cache: corpus)
    assert resolve_data(name, kind="regression") == corpus
    for kind in ("text-classification", "token-classification", "question-answering", "embeddings", "multi-task"):
        with pytest.raises(SettingsError, match=f"{name}: is no labelled data for {kind}; .* use it for regression"):
            resolve_data(name, kind=kind)
    for kind in ("text-classification", "token-classification", "embeddings", "multi-task"):
        assert resolve_data(name, kind=kind, require_labels=False) == Examples(corpus.texts, None, name)
    with pytest.raises(SettingsError, match="split='dev' means nothing; remove it"):
        resolve_data(name, kind="regression", split="dev")


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return fetch("vader")
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def parts(folder: Path) -> Parts:
    return {part: resolve_data(f"asset:vader-ratings/{part}", kind="regression") for part in PARTS}


@pytest.fixture(scope="module")
def everything(folder: Path) -> list[Sentence]:
    return [sentence for corpus in FILES for sentence in sentences(folder, corpus)]


@pytest.mark.assets
def test_no_text_is_in_two_parts_or_twice_in_one_and_none_is_lost(everything: list[Sentence], parts: Parts) -> None:
    texts = [text for part in parts.values() for text in part.texts]
    forms = set(map(normalise, texts))
    assert len(forms) == len(texts)
    left_out = {s.text for s in everything} - set(texts)
    assert left_out
    assert forms.issuperset(map(normalise, left_out))


@pytest.mark.assets
def test_sizes(everything: list[Sentence], parts: Parts) -> None:
    # As the authors count them: film sentences, of product reviews, of editorials, and tweets.
    assert len(everything) == 10_605 + 3_708 + 5_190 + 4_200
    total = sum(map(len, parts.values()))
    for part, share in (("train", 0.8), ("dev", 0.05), ("test", 0.15)):
        assert len(parts[part]) / total == pytest.approx(share, rel=0.05)
    assert {s.document for s in everything if s.corpus == "amazon"} <= {str(i) for i in range(1, 310)}
    assert {s.document for s in everything if s.corpus == "nyt"} <= {str(i) for i in range(1, 501)}


@pytest.mark.assets
def test_no_document_is_in_two_parts(everything: list[Sentence], parts: Parts) -> None:
    homes: dict[str, set[tuple[str, str]]] = {}
    for s in everything:
        homes.setdefault(s.text, set()).add((s.corpus, s.document))
    found: dict[tuple[str, str], set[str]] = {}
    for part, examples in parts.items():
        for text in examples.texts:
            if len(homes[text]) == 1:  # else it may have been kept from the other document
                (home,) = homes[text]
                found.setdefault(home, set()).add(part)
    assert sum(corpus in ("amazon", "nyt") for corpus, _ in found) > 790
    assert not {document: where for document, where in found.items() if len(where) > 1}


@pytest.mark.assets
def test_ratings_are_the_means_of_the_raters(parts: Parts) -> None:
    # Of the raters' own numbers, which are in the same archive: the sum over their number.
    by_hand = {
        "Effective but too tepid biopic": ("train", -9 / 15),
        "troubleshooting ad-2500 and ad-2600 no picture scrolling b/w.": ("test", -18 / 20),
    }
    for text, (part, rating) in by_hand.items():
        examples = parts[part]
        assert (examples.labels or ())[examples.texts.index(text)] == pytest.approx(rating, abs=1e-9)
    for examples in parts.values():
        assert examples.labels is not None
        assert all(type(label) is float and -4 <= label <= 4 for label in examples.labels)
        assert not any(text != text.strip() or not text for text in examples.texts)


@pytest.mark.assets
def test_the_same_twice(parts: Parts) -> None:
    assert vader_ratings("dev") == parts["dev"]
    assert vader.ratings(fetch("vader"), "test") == parts["test"]
