"""Texts that are looked up word by word have the ids that the tokenizers library gives them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from attar.runtime import words
from attar.runtime.tokenizer import Tokenizer

PIECES = ["a", "b", "c", "x", "film", "##s", "##a", "##b", "un", "##fun", "##ny", "'", "!", "[", "3", ".", "_", "Film"]
LIMIT = 40


def library(lowercase: bool = True, roberta: bool = False) -> Library:
    """A WordPiece tokenizer as BERT has it or, with RoBERTa's marks around a text, as MPNet has it."""
    marks = ["<s>", "</s>", "[UNK]"] if roberta else ["[CLS]", "[SEP]", "[UNK]"]
    made = Library(models.WordPiece({p: i for i, p in enumerate([*marks, *PIECES])}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(marks)
    if roberta:
        made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
        made.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    else:
        made.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    return made


KINDS = {"BERT": library(), "cased": library(lowercase=False), "MPNet": library(roberta=True)}
OURS = {name: Tokenizer(made.to_str().encode(), LIMIT) for name, made in KINDS.items()}
PARTS = st.one_of(
    st.sampled_from(
        [*PIECES, " ", "  ", "unfunny", "FILMS", "don't", "<s>", "[SEP]", "<mask>", "films" * 9, "é", "\n"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=4),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
)
TEXTS = st.lists(PARTS, max_size=25).map("".join)


def expected(made: Library, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
    own = Library.from_str(made.to_str())
    whole = [e.ids for e in own.encode_batch(list(texts))]
    own.enable_truncation(LIMIT)
    return [e.ids for e in own.encode_batch(list(texts))], [len(ids) > LIMIT for ids in whole]


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_and_cuts_are_the_librarys(kind: str, texts: list[str]) -> None:
    found = OURS[kind].encode(texts)
    assert (found.ids, found.truncated) == expected(KINDS[kind], texts)


@pytest.mark.parametrize("kind", KINDS)
def test_cases(kind: str) -> None:
    texts = [
        "",
        " ",
        "a",
        "Unfunny films!",
        "a " * 60,
        "a " * 38,
        "a " * 39,
        "x<s>a",
        "a [UNK]",
        "a\tb",
        "naïve",
        "a\x00b",
    ]
    texts += ["b" * 32, "b" * 33, "3.14", "_a_", "it's", "~`^|\\"]
    for given_ in (texts, texts[::-1], *([t] for t in texts)):
        found = OURS[kind].encode(given_)
        assert (found.ids, found.truncated) == expected(KINDS[kind], given_)


def test_plain_text_does_not_ask_the_library_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Tokenizer(KINDS["BERT"].to_str().encode(), LIMIT)
    own.encode(["films: a b"])

    def never(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(own, "_encode", never)
    assert own.encode(["b a films :"]).ids == expected(KINDS["BERT"], ["b a films :"])[0]


def test_a_full_table_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", 2)
    own = Tokenizer(KINDS["BERT"].to_str().encode(), LIMIT)
    for text in ("a b", "c a", "a b c", "films"):
        assert own.encode([text]).ids == expected(KINDS["BERT"], [text])[0]
    assert own._words is not None and len(own._words._table) == 2


def test_tokenizers_of_other_kinds_are_left_alone() -> None:
    assert all(t._words is not None for t in OURS.values())
    record = json.loads(KINDS["BERT"].to_str())
    for changed in (
        {"normalizer": None}, {"normalizer": {"type": "Lowercase"}}, {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"added_tokens": [{**record["added_tokens"][0], "content": "film", "id": 7}]},
    ):  # fmt: skip
        assert Tokenizer(json.dumps(record | changed).encode(), LIMIT)._words is None
    assert Tokenizer(json.dumps(record).encode(), words.LONGEST)._words is None
