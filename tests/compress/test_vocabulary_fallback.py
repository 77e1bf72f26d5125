"""No text is lost by a smaller vocabulary, whatever the vocabulary and the text; and kinds other than WordPiece."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from attar.compress import vocabulary
from attar.compress.pieces import is_mark
from attar.distill.encoder import Encoder, EncoderShape
from attar.distill.student import Student
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.classification import TextClassification
from tests.models import EDGE_TEXTS, make_student, sentences

NOTHING = Examples((), None, "nothing")
LETTERS = "abcé東🎉"
UNKNOWN = "[UNK]"
word = st.one_of(st.text("ab", min_size=1, max_size=6), st.text(LETTERS, min_size=1, max_size=6))
any_text = st.one_of(st.lists(word, max_size=6).map(" ".join), st.text(max_size=30))
scored = st.dictionaries(word, st.floats(-12, -1), max_size=14)


def trimmed(tokenizer: Tokenizer, texts: Sequence[str], **given_: Any) -> Tokenizer:
    """The tokenizer that a student of this one has after the step; of the student nothing else matters here."""
    shape = EncoderShape(tokenizer.get_vocab_size(), 4, 8, (), ())
    student = Student(Encoder(shape), tokenizer.to_str().encode(), TextClassification(("a", "b")))
    context: Any = SimpleNamespace(train=Examples(tuple(texts), None, "texts"), unlabelled=NOTHING)
    found = vocabulary.apply(student, vocabulary.Settings(**given_), context)
    result = Tokenizer.from_buffer(found.tokenizer)
    assert result.get_vocab_size() == found.encoder.shape.vocab
    assert sorted(result.get_vocab().values()) == list(range(found.encoder.shape.vocab))
    return result


def word_piece(pieces: set[str]) -> Tokenizer:
    vocab = {piece: i for i, piece in enumerate([UNKNOWN, *sorted(pieces)])}
    result = Tokenizer(models.WordPiece(vocab, unk_token=UNKNOWN, max_input_chars_per_word=100))
    result.normalizer, result.pre_tokenizer = normalizers.NFC(), pre_tokenizers.BertPreTokenizer()
    result.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return result


def unigram(scores: dict[str, float]) -> Tokenizer:
    result = Tokenizer(models.Unigram([(UNKNOWN, 0.0), *sorted(scores.items())], unk_id=0, byte_fallback=False))
    result.normalizer, result.pre_tokenizer = normalizers.NFC(), pre_tokenizers.WhitespaceSplit()
    result.decoder = decoders.Fuse()
    return result


@st.composite
def merged(draw: st.DrawFn) -> Tokenizer:
    """BPE over some letters, with merges of any two symbols that there are by then."""
    symbols, merges = list(draw(st.sampled_from(["ab", "abc", LETTERS]))), []
    for _ in range(draw(st.integers(0, 12))):
        pair = (draw(st.sampled_from(symbols)), draw(st.sampled_from(symbols)))
        if pair not in merges:
            merges.append(pair)
            symbols += [pair[0] + pair[1]] if pair[0] + pair[1] not in symbols else []
    vocab = {piece: i for i, piece in enumerate([UNKNOWN, *symbols])}
    result = Tokenizer(models.BPE(vocab, merges, unk_token=UNKNOWN))
    result.normalizer, result.pre_tokenizer = normalizers.NFC(), pre_tokenizers.WhitespaceSplit()
    result.decoder = decoders.Fuse()
    return result


pieces = st.sets(st.tuples(st.sampled_from(["", "##"]), word).map("".join), max_size=14)
any_tokenizer = st.one_of(pieces.map(word_piece), scored.map(unigram), merged())


@settings(max_examples=50)
@given(any_tokenizer, st.lists(any_text, max_size=3), st.lists(any_text, min_size=1, max_size=4), st.integers(1, 9))
def test_no_text_is_lost(old: Tokenizer, texts: list[str], others: list[str], size: int) -> None:
    new = trimmed(old, texts, size=size)
    unknown = old.token_to_id(UNKNOWN)
    assert new.token_to_id(UNKNOWN) is not None
    for text in (*texts, *others):
        before, after = old.encode(text), new.encode(text)
        if unknown not in before.ids:
            assert new.token_to_id(UNKNOWN) not in after.ids
            assert new.decode(after.ids) == old.decode(before.ids)
        # Nor word by word: where one is unknown, others are not.
        for part, _ in old.pre_tokenizer.pre_tokenize_str(old.normalizer.normalize_str(text)):
            if unknown not in old.encode(part).ids:
                assert new.token_to_id(UNKNOWN) not in new.encode(part).ids


@settings(max_examples=50)
@given(any_tokenizer, st.lists(any_text, max_size=4))
def test_what_the_texts_use_is_read_as_before(old: Tokenizer, texts: list[str]) -> None:
    new = trimmed(old, texts)
    for text in texts:
        before = old.encode(text)
        if old.token_to_id(UNKNOWN) not in before.ids:
            assert new.encode(text).tokens == before.tokens


def test_a_character_that_was_only_part_of_pieces_becomes_one() -> None:
    """Without `##c`, "a" and "##bc" would be found in place of the dropped "ab" and "##cd", and then no "##d"."""
    old = word_piece({"a", "ab", "b", "##b", "##bc", "##cd"})
    assert old.encode("abcd").tokens == ["ab", "##cd"]
    new = trimmed(old, ["a b"])
    assert new.encode("abcd").tokens == ["a", "##b", "##c", "##d"]


@pytest.mark.parametrize(
    ("piece", "mark"),
    [
        ("[MASK]", True),
        ("[unused7]", True),
        ("<mask>", True),
        ("<0x4A>", False),
        ("[", False),
        ("<>", False),
        ("a", False),
    ],
)
def test_marks_are_no_text(piece: str, mark: bool) -> None:
    assert is_mark(piece) == mark
    assert ("##" + piece[-1] in trimmed(word_piece({piece}), ["a"]).get_vocab()) == (not mark and len(piece) > 1)


def test_bytes_read_any_text() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<pad>", "</s>"],
    )  # fmt: skip
    train = [str(text) for text in sentences(40, seed=1).texts]
    tokenizer.train_from_iterator(train, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    small = trimmed(tokenizer, train[:3])
    assert 259 <= small.get_vocab_size() < tokenizer.get_vocab_size()
    for text in train[:3]:
        assert small.encode(text).tokens == tokenizer.encode(text).tokens

    @settings(max_examples=60)
    @given(st.text(max_size=40))
    def reads(text: str) -> None:
        ids = small.encode(text).ids
        assert small.decode(ids) == text
        assert [ids[0], ids[-1]] == [small.token_to_id("<s>"), small.token_to_id("</s>")]

    reads()


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    """With a Unigram vocabulary and a token that was added behind it."""
    given_ = make_student(tmp_path_factory.mktemp("fallback") / "xlm", "xlm-roberta")
    words = sorted({w for text in sentences(40, seed=2).texts for w in str(text).split()})
    letters = sorted({c for w in words for c in w} | {"▁"})
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    entries = [*((m, 0.0) for m in marks), *((f"▁{w}", -5.0) for w in words), *((c, -9.0) for c in letters)]
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.add_special_tokens([*marks, "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    torch.manual_seed(0)
    encoder = Encoder(replace(given_.transformer.shape, vocab=tokenizer.get_vocab_size())).eval()
    return replace(given_, encoder=encoder, tokenizer=tokenizer.to_str().encode(), pad_id=1)


def test_a_unigram_student_answers_as_before(student: Student, tmp_path: Path) -> None:
    few = Examples(("The film was charming.", "the plot was dull and bland"), None, "few")
    context: Any = SimpleNamespace(train=few, unlabelled=NOTHING)
    small = vocabulary.apply(student, vocabulary.Settings(), context)
    assert small.encoder.shape.vocab < student.encoder.shape.vocab
    vocab = Tokenizer.from_buffer(small.tokenizer).get_vocab()
    assert small.pad_id == vocab["<pad>"] and vocab["<mask>"] == max(vocab.values())
    assert (small.logits(few.texts) - student.logits(few.texts)).abs().max() < 1e-5
    assert torch.isfinite(small.logits(EDGE_TEXTS)).all()
    small.save(tmp_path / "small")
    assert Student.load(tmp_path / "small").digest() == small.digest()


def test_only_word_piece_is_trained(student: Student) -> None:
    context: Any = SimpleNamespace(train=sentences(4), unlabelled=NOTHING)
    with pytest.raises(SettingsError, match="a Unigram vocabulary can be trimmed, not trained"):
        vocabulary.apply(student, vocabulary.Settings(how="train"), context)


def test_merges_are_read_in_both_forms() -> None:
    tokenizer = Tokenizer(models.BPE({UNKNOWN: 0, "a": 1, "b": 2, "ab": 3, "aba": 4}, [("a", "b"), ("ab", "a")]))
    record = json.loads(tokenizer.to_str())
    record["model"]["merges"] = ["a b", "ab a"]
    older = Tokenizer.from_str(json.dumps(record))
    for given_ in (tokenizer, older):
        assert trimmed(given_, ["ab"]).get_vocab().keys() == {UNKNOWN, "a", "b", "ab"}
        assert trimmed(given_, ["aba"]).get_vocab().keys() == {UNKNOWN, "a", "b", "ab", "aba"}
