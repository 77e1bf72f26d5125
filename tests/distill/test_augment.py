"""New texts of the training texts: by hand on toy words; whatever the texts, none of another part and none twice."""

from __future__ import annotations

import json
import shutil
from itertools import islice, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.distill.data.augment import Augmentation, augmented
from attar.distill.data.neighbours import nearest
from attar.distill.data.resample import masked, redrawn, replaced, slots_of
from attar.distill.data.split import normalise
from attar.distill.data.words import Words, read_mask, read_words
from attar.pipeline.data import read_data
from attar.pipeline.recipe import parse
from attar.runtime.data import Examples
from attar.runtime.errors import ModelError, SettingsError
from tests.models import BAD, GOOD, NOISE, NOUNS, SPECIALS, make_checkpoint, sentences, tokenizer

# Vectors on a half circle, so that the angle between two words says how near they are.
ANGLES = {"good": 0, "fine": 10, "Good": 15, "great": 30, "bad": 170, "dull": 150}
TOY = Words(tuple(ANGLES), np.array([[np.cos(np.radians(a)), np.sin(np.radians(a))] for a in ANGLES.values()], "f4"))
WORDS = st.lists(st.sampled_from([*GOOD[:3], *NOUNS[:3], "The", "a", "x-ray", ":)", "it's"]), max_size=6).map(" ".join)
TEXTS = st.lists(st.one_of(WORDS, st.tuples(WORDS, WORDS)), max_size=8, unique=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("augment") / "base", layers=1, hidden=16, ffn=16, heads=2)


def test_nearest_by_hand() -> None:
    keys = np.array([[1, 0], [0, 2], [3, 3], [-1, 0]], dtype="f4")
    own = np.arange(4)
    indices, cosines = nearest(keys, keys, 2, (own, own))
    assert indices[0].tolist() == [2, 1] and indices[3].tolist() == [1, 2]
    np.testing.assert_allclose(cosines[0], [2**-0.5, 0], atol=1e-6)
    # More than there are: the query itself comes last, with a cosine that says that it is none.
    indices, cosines = nearest(keys, keys, 9, (own, own))
    assert indices.shape == (4, 4) and indices[:, 3].tolist() == own.tolist()
    assert np.isneginf(cosines[:, 3]).all()


def test_the_nearest_words_leave_out_other_spellings_of_the_word() -> None:
    found = TOY.near(["good", "Great", "GOOD", "unheard-of"])
    assert found["good"] == ["fine", "great", "dull", "bad"]
    assert found["Great"] == ["Good", "Fine", "Good", "Dull", "Bad"]  # known as great: neighbours take its capital
    assert set(found) == {"good", "Great", "GOOD"}


def test_words_are_whole_pieces_of_letters(model: Path) -> None:
    words = read_words(model)
    assert {*GOOD, *BAD, *NOUNS, *NOISE} <= set(words.names)
    assert all(name.isalpha() for name in words.names) and not set(SPECIALS) & set(words.names)
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    table = read_table(model)
    np.testing.assert_array_equal(words.vectors[words.names.index("film")], table[vocabulary["film"]])


def read_table(model: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(model / "model.safetensors")["bert.embeddings.word_embeddings.weight"]


def test_vocabularies_without_whole_words_are_refused(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}))
    with pytest.raises(SettingsError, match=r"\[data\] replacements needs a WordPiece vocabulary.* is of BPE; leave"):
        read_words(folder)
    shutil.copy(model / "tokenizer.json", folder)
    (folder / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot be read, it may be truncated"):
        read_words(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors; save the model again"):
        read_words(folder)


def test_replaced_words_are_neighbours_and_the_rest_stays() -> None:
    texts = ("A good, GREAT film!", ("bad  it's", "-- dull"))
    copies = list(islice(replaced(texts, TOY, seed=1), 400))
    near = TOY.near(["good", "GREAT", "bad", "dull"])
    seen = set()
    for single, pair in copies:
        assert isinstance(single, str) and isinstance(pair, tuple)
        a, first, second, b = single.replace(",", "").rstrip("!").split(" ")
        assert (a, b) == ("A", "film") and single.endswith(" film!") and first in ("good", *near["good"])
        assert second in ("GREAT", *near["GREAT"])
        assert pair[0].endswith("  it's") and pair[1].startswith("-- ")
        seen.add(first)
    assert seen == {"good", *near["good"]}
    kept = np.mean([single.startswith("A good,") for single, _ in copies])  # type: ignore[union-attr]  # a string
    assert 0.53 < kept < 0.67  # 0.6 is expected; 400 draws have a deviation of 0.024


def test_drawn_words_follow_the_word_before_or_back_off() -> None:
    # After a beginning only x, after x only y, after y both z and w: but for the last, all back off to any word.
    copies = [t for t in islice(redrawn(("x y z", "x y w"), seed=0), 500) for t in t]
    words = [str(text).split() for text in copies]
    assert {len(w) for w in words} == {3}
    third = {(w[1], w[2]) for w in words[::2]}
    assert {b for a, b in third if a == "y"} == {"z", "w"}  # what is known of y says all
    assert {b for a, b in third if a == "z"} == {"x", "y", "z", "w"}  # nothing follows z, so any word does
    assert {w[0] for w in words} == {"x", "y", "z", "w"}
    changed = np.mean([w[0] != "x" for w in words])
    assert 0.13 < changed < 0.2  # a quarter is drawn anew, and a third of all words are x: 1/6, deviation 0.012


def test_a_tenth_of_the_words_is_masked_and_the_rest_stays() -> None:
    texts = ("It's a--ok, so!", ("bad  film", "-- dull"), "", "?!")
    words = [["It's", "a", "ok", "so"], ["bad", "film"], ["dull"]]
    count = 0
    for copy in islice(masked(texts, "[MASK]", seed=1), 600):
        single, pair, *rest = copy
        assert isinstance(single, str) and isinstance(pair, tuple) and rest == ["", "?!"]
        for text, own, form in zip((single, *pair), words, ("{} {}--{}, {}!", "{}  {}", "-- {}"), strict=True):
            fits = [[word, "[MASK]"] for word in own]
            assert text in {form.format(*choice) for choice in product(*fits)}
        count += sum(text.count("[MASK]") for text in (single, *pair))
    assert 0.08 < count / (600 * 7) < 0.12  # a tenth is expected; 4,200 words have a deviation of 0.005
    assert list(islice(masked((), "[MASK]", seed=1), 1)) == [[]]


def test_the_mask_is_one_that_the_tokenizer_reads(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    with pytest.raises(SettingsError, match=r"masks needs a tokenizer with a mask token.*\[MASK\] nor <mask>; leave"):
        read_mask(folder)  # it is in the vocabulary, but a text that holds it is split at the brackets
    for mask in ("[MASK]", "<mask>"):
        words = tokenizer()
        words.add_special_tokens([mask])
        (folder / "tokenizer.json").write_text(words.to_str())
        assert read_mask(folder) == mask


def test_slots_hold_words_with_their_apostrophes() -> None:
    slots = slots_of(("It's a--ok", ""))
    assert slots.names == ["It's", "a", "ok"]
    assert slots.first.tolist() == [True, False, False]
    assert slots.filled(np.array(["B", "c", "d"], dtype=object)) == ["B c--d", ""]


@given(
    train=TEXTS, dev=TEXTS, replacements=st.integers(0, 2), ngrams=st.integers(0, 2), crops=st.integers(0, 1),
    seed=st.integers(0, 5),
)  # fmt: skip
def test_no_new_text_is_old_or_repeated(
    model: Path, train: list[str], dev: list[str], replacements: int, ngrams: int, crops: int, seed: int
) -> None:
    wanted = Augmentation(crops, replacements, ngrams, seed=seed)
    data, held = Examples(tuple(train), None, "train"), Examples(tuple(dev), None, "dev")
    found = augmented(data, wanted, lambda: model, held).texts
    assert found == augmented(data, wanted, lambda: model, held).texts
    spans = augmented(data, Augmentation(crops, seed=seed), lambda: model, held).texts
    assert found[: len(spans)] == spans
    forms = [normalise(text) for text in found[len(spans) :]]
    assert len(set(forms)) == len(forms) <= (replacements + ngrams) * len(train)
    assert not set(forms) & {normalise(text) for text in (*train, *dev, *spans)}


def test_masks_are_new_texts_of_a_recipe(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "m"))
    words = tokenizer()
    words.add_special_tokens(["[MASK]"])
    (folder / "tokenizer.json").write_text(words.to_str())
    plain = sentences(60)
    rows = [f'"{text}",{label}' for text, label in zip(plain.texts, plain.labels or (), strict=True)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    record = {"name": "x", "teacher": {"model": str(folder)}, "data": {"train": str(tmp_path / "train.csv")}}
    masks = parse({**record, "data": {**record["data"], "masks": 2}})  # type: ignore[dict-item]  # it is a dict
    found = read_data(masks)
    assert found == read_data(masks)
    assert len(found.unlabelled) > len(found.splits.train)
    assert all("[MASK]" in text for text in found.unlabelled.texts)


def test_the_recipe_asks_for_new_texts(model: Path, tmp_path: Path) -> None:
    plain = sentences(120)
    rows = [f'"{text}",{label}' for text, label in zip(plain.texts, plain.labels or (), strict=True)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "more.txt").write_text("a text of its own\n")
    table = {"train": str(tmp_path / "train.csv"), "unlabelled": str(tmp_path / "more.txt")}
    record = {"name": "x", "teacher": {"model": str(model)}}
    found = read_data(parse({**record, "data": {**table, "replacements": 2, "ngrams": 1}}))
    again = read_data(parse({**record, "data": {**table, "replacements": 2, "ngrams": 1}}))
    assert found == again
    s = found.splits
    assert len(found.unlabelled) > 2 * len(s.train) and found.unlabelled.labels is None
    assert found.unlabelled.texts[-1] == "a text of its own"
    held = {normalise(text) for part in (s.train, s.dev, s.test) for text in part.texts}
    assert not held & {normalise(text) for text in found.unlabelled.texts}
    assert read_data(parse({**record, "data": table})).unlabelled.texts == ("a text of its own",)


@pytest.mark.parametrize(
    ("data", "task", "words"),
    [
        ({"replacements": -1}, {}, r"\[data\] replacements must be a number of texts, 0 or more, not -1"),
        ({"ngrams": 0.5}, {}, r"\[data\] ngrams must be a number of texts, 0 or more, not 0\.5"),
        ({"masks": "1"}, {}, r"\[data\] masks must be a number of texts, 0 or more, not '1'"),
        ({"masks": 1}, {"kind": "question-answering"}, "ngrams and masks do not go with question-answering"),
        ({"crops": True}, {}, r"\[data\] crops must be a number of texts, 0 or more, not True"),
        ({"ngrams": 1}, {"kind": "question-answering"}, "do not go with question-answering: .* leave them out"),
    ],
)
def test_what_cannot_be_asked_for(data: dict[str, object], task: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse({"name": "x", "data": {"train": "t.csv", **data}, "teacher": {"model": "m"}, "task": task})
