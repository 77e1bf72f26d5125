"""Entities: those of transformers' own pipeline, whatever the tokenizer; long texts in windows; words of any script."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models as pieces
from tokenizers import pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    TokenClassificationPipeline,
)

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import Floats
from attar.runtime.tasks.spans import tags_of
from attar.runtime.tasks.tokens import AGGREGATIONS, Aggregation, Entity, TokenClassification
from attar.runtime.tokenizer import Encoded
from tests import models

OF_PIPELINE = tuple(a for a in AGGREGATIONS if a != "word")
BIO = tags_of(("city", "person"))
TAGS = {
    "BIO": BIO,
    "BILOU": tags_of(("city", "person"), "BILOU"),
    "plain": ("NOUN", "DET", "NN-HL", "O"),
    "mixed": ("B-O", "I-city", "city", "O", "B-city", "X"),
}
TEXTS = (
    "The film was charming, and w-x.y zoqx saw it.",
    "Jose\u0301 and Zoë\tsaw\n\nNew  York last night ",
    "東京都 is 東京, not 🎉🎉 or \U0001f469\u200d\U0001f4bb!",
    "שלום, the film: مرحبا بالعالم",
    "a",
    "?!",
)


def byte_level() -> Backend:
    """As RoBERTa's: every byte is a token, apart from some merges; several tokens may share one character."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("f", "i"), ("l", "m"), ("fi", "lm"), ("Ġ", "film")]
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(a + b for a, b in merges)]
    result = Backend(pieces.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return result


def unigram() -> Backend:
    """As DeBERTa v3's: tokens hold the space before them, and what is unknown is one token."""
    tokens = ["▁", "▁the", "▁film", "fi", "lm", "▁New", "▁York", *models.LETTERS, "東京"]
    vocabulary = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        *((t, -float(len(t) < 2)) for t in tokens),
    ]
    result = Backend(pieces.Unigram(vocabulary, unk_id=3))
    result.pre_tokenizer = pre_tokenizers.Metaspace()
    result.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return result


TOKENIZERS = {"wordpiece": models.tokenizer(), "byte level": byte_level(), "unigram": unigram()}
UNKNOWN = {"wordpiece": "[UNK]", "byte level": "<unk>", "unigram": "<unk>"}


def pipeline(kind: str, tags: tuple[str, ...]) -> TokenClassificationPipeline:
    config = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
        id2label=dict(enumerate(tags)),
    )  # fmt: skip
    words = PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS[kind], unk_token=UNKNOWN[kind], model_max_length=512)
    return TokenClassificationPipeline(model=BertForTokenClassification(config), tokenizer=words)


def of_pipeline(pipe: TokenClassificationPipeline, text: str, logits: Floats, aggregation: Aggregation) -> list[Any]:
    """[label, start, end] and score of what the pipeline finds, given the logits in the place of its model's."""
    (inputs,) = pipe.preprocess(text, is_split_into_words=False)
    with warnings.catch_warnings():
        # It is the behaviour behind this warning that is compared.
        warnings.filterwarnings("ignore", "Tokenizer does not support real words", UserWarning)
        _, _, options = pipe._sanitize_parameters(aggregation_strategy=aggregation)
        found = pipe.postprocess([{**inputs, "logits": torch.from_numpy(logits)[None]}], **options)
    label = "entity" if aggregation == "none" else "entity_group"
    return [([e[label], e["start"], e["end"]], float(e["score"])) for e in found]


def encode(task: TokenClassification, kind: str, *texts: str) -> Encoded:
    return task.encode(task.reader(TOKENIZERS[kind].to_str().encode(), 0), texts)


def random_logits(encoded: Encoded, tags: int, seed: int) -> list[Floats]:
    """One logits row a token, in which tags tend to repeat."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(len(row), tags)) for row in encoded.ids]
    return [(2 * r + np.roll(r, 1, axis=0) * rng.integers(0, 6)).astype(np.float32) for r in rows]


def check(entities: list[Entity], text: str, *, disjoint: bool = True) -> None:
    for entity in entities:
        assert 0 <= entity.start < entity.end <= len(text)
        assert entity.text == text[entity.start : entity.end]
        assert 0 < entity.score <= 1
    for before, after in pairwise(entities):
        assert (before.end if disjoint else before.start) <= after.start


@pytest.mark.parametrize("aggregation", OF_PIPELINE)
@pytest.mark.parametrize("scheme", TAGS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_entities_are_those_of_the_pipeline(kind: str, scheme: str, aggregation: Aggregation) -> None:
    tags = TAGS[scheme]
    task, pipe = TokenClassification(tags, 512, aggregation=aggregation), pipeline(kind, tags)
    encoded = encode(task, kind, *TEXTS)
    for seed in range(3):
        logits = random_logits(encoded, len(tags), seed)
        answers = task.answers(encoded, {"logits": logits})
        for text, row, entities in zip(TEXTS, logits, answers, strict=True):
            # A find without a character is of no use to anyone.
            expected = [e for e in of_pipeline(pipe, text, row, aggregation) if e[0][1] < e[0][2]]
            assert [[e.label, e.start, e.end] for e in entities] == [place for place, _ in expected]
            assert [e.score for e in entities] == pytest.approx([score for _, score in expected], abs=1e-6)
            check(entities, text, disjoint=kind == "wordpiece")


def test_the_comparison_with_the_pipeline_has_something_to_compare() -> None:
    pipe = pipeline("wordpiece", BIO)
    encoded = encode(TokenClassification(BIO), "wordpiece", *TEXTS)
    found = [of_pipeline(pipe, t, r, "simple") for t, r in zip(TEXTS, random_logits(encoded, 5, 0), strict=True)]
    assert sum(map(len, found)) > 20
    assert any(e[0][2] - e[0][1] > 6 for row in found for e in row)


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, int, int]:
    words = st.sampled_from(("film", "zoqx", "🎉", "Jose\u0301", "東京", "שלום", "w,x", "the", "\u200b"))
    gaps = st.sampled_from((" ", "\t", "  ", "\u00a0"))
    text = "".join(word + gap for word, gap in draw(st.lists(st.tuples(words, gaps), max_size=40)))
    return text, draw(st.integers(4, 24)), draw(st.integers(0, 30))


@given(cut(), st.sampled_from(sorted(TOKENIZERS)))
def test_windows_of_any_stride_hold_every_token_once(example: tuple[str, int, int], kind: str) -> None:
    text, max_length, stride = example
    task = TokenClassification(("O", "X"), max_length, stride, "none")
    encoded, whole = encode(task, kind, text), encode(TokenClassification(BIO, 4096), kind, text)
    assert encoded.windows is not None and whole.windows is not None
    assert all(len(row) <= max_length for row in encoded.ids)
    (tokens,) = task.answers(encoded, {"logits": [np.tile(np.float32([0, 9]), (len(row), 1)) for row in encoded.ids]})
    assert [[t.start, t.end] for t in tokens] == [o for o in whole.windows[0].offsets.tolist() if o[0] < o[1]]


@given(cut(), st.sampled_from(AGGREGATIONS), st.integers(0, 9))
def test_a_text_in_windows_gives_the_entities_of_the_whole(
    example: tuple[str, int, int], aggregation: Aggregation, seed: int
) -> None:
    text, max_length, stride = example

    def answers(task: TokenClassification) -> list[Entity]:
        """With logits that depend on a token's place in the text alone."""
        encoded = encode(task, "wordpiece", text)
        assert encoded.windows is not None
        logits = [table[w.offsets[:, 0]] for w in encoded.windows]
        (entities,) = task.answers(encoded, {"logits": logits})
        return list(entities)

    table = (3 * np.random.default_rng(seed).normal(size=(len(text) + 1, len(BIO)))).astype(np.float32)
    found = answers(TokenClassification(BIO, max_length, stride, aggregation))
    assert found == answers(TokenClassification(BIO, 4096, 0, aggregation))
    check(found, text)


def words(text: str, *tags: str, known: tuple[str, ...] = BIO, sure: float = 3.0) -> list[tuple[str, str]]:
    """What aggregation by words makes of a text of which every first token of a word has such a tag, others none."""
    task = TokenClassification(known, 512, aggregation="word")
    encoded = encode(task, "wordpiece", text)
    assert encoded.windows is not None
    given, logits = iter(tags), np.zeros((len(encoded.ids[0]), len(known)), dtype=np.float32)
    logits[:, known.index("O")] = 1.0
    for i, (start, end) in enumerate(encoded.windows[0].offsets.tolist()):
        if start < end and (start == 0 or text[start - 1].isspace()):
            logits[i] = sure * np.eye(len(known))[known.index(next(given))]
    assert next(given, None) is None
    (entities,) = task.answers(encoded, {"logits": [logits]})
    check(entities, text)
    return [(e.text, e.label) for e in entities]


def test_words_take_the_tag_of_their_first_token() -> None:
    assert words("zoqx film bzq.q the", "B-city", "I-city", "B-person", "O") == [
        ("zoqx film", "city"),
        ("bzq.q", "person"),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the Jose\u0301 Zoe\u0308", "Jose\u0301 Zoe\u0308"),
        ("the 🎉🎉 \U0001f469\u200d\U0001f4bb", "🎉🎉 \U0001f469\u200d\U0001f4bb"),
        ("the 東京都 大阪", "東京都 大阪"),
        ("\tthe\t\tfilm\n\n scene\t", "film\n\n scene"),
        ("the שלום مرحبا", "שלום مرحبا"),
        ("the film,\u3000scene!", "film,\u3000scene!"),
    ],
)
def test_words_of_any_script_are_whole(text: str, found: str) -> None:
    assert words(text, "O", "B-city", "I-city") == [(found, "city")]


def test_words_without_a_token_are_passed_over() -> None:
    assert words("zoqx \u200b film the", "B-city", "I-city", "O") == [("zoqx \u200b film", "city")]


def test_invalid_tags_of_words_are_put_right() -> None:
    assert words("a b c d", "I-city", "I-city", "I-person", "O") == [("a b", "city"), ("c", "person")]
    assert words("a b c d", "B-city", "B-city", "O", "I-city") == [("a", "city"), ("b", "city"), ("d", "city")]
    bilou = tags_of(("x",), "BILOU")
    assert words("a b c d", "L-x", "I-x", "U-x", "I-x", known=bilou) == [(w, "x") for w in "abcd"]
    assert words("a b c d", "B-x", "I-x", "L-x", "L-x", known=bilou) == [("a b c", "x"), ("d", "x")]
    bioes = tags_of(("x",), "BIOES")
    assert words("a b c d", "S-x", "B-x", "E-x", "E-x", known=bioes) == [("a", "x"), ("b c", "x"), ("d", "x")]


def test_the_score_is_the_mean_of_the_words() -> None:
    task = TokenClassification(("O", "B-x", "I-x"), aggregation="word")
    encoded = encode(task, "wordpiece", "film zo")
    logits = np.log(np.array([[1, 1, 1], [1, 2, 1], [1, 1, 8], [9, 1, 1], [1, 1, 1]], dtype=np.float32))
    (entities,) = task.answers(encoded, {"logits": [logits]})
    assert entities == [Entity("x", pytest.approx((0.5 + 0.8) / 2), 0, 7, "film zo")]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_hard_texts_do_not_crash(kind: str, aggregation: Aggregation) -> None:
    texts = [*models.EDGE_TEXTS, "\u0301", "\u200b", "\ufeff a", "x" * 500, "🎉" * 50]
    task = TokenClassification(BIO, 16, 4, aggregation)
    encoded = encode(task, kind, *texts)
    answers = task.answers(encoded, {"logits": random_logits(encoded, len(BIO), 1)})
    assert len(answers) == len(texts) and answers[0] == []
    for text, entities in zip(texts, answers, strict=True):
        check(entities, text, disjoint=kind == "wordpiece" or aggregation == "word")


def test_a_very_long_text_is_read_to_its_end() -> None:
    text = "the film saw zoqx " * 3000
    task = TokenClassification(BIO, 128, 32, "word")
    encoded = encode(task, "wordpiece", text)
    assert encoded.windows is not None and len(encoded.ids) > 100
    # Every "z" begins a city; "##o", "##q" and "##x" say nothing.
    z = TOKENIZERS["wordpiece"].token_to_id("z")
    logits = [np.eye(5, dtype=np.float32)[np.equal(row, z).astype(int)] for row in encoded.ids]
    (entities,) = task.answers(encoded, {"logits": logits})
    assert [e.start for e in entities] == list(range(13, len(text), 18))
    assert {e.text for e in entities} == {"zoqx"}


def test_the_task_survives_json_and_takes_its_option() -> None:
    task = TokenClassification(BIO, 64, 16, "word")
    assert task_of(task.to_json()) == task
    assert task.with_options({"aggregation": "max"}).aggregation == "max"
    assert task.heads[0].outputs == 5 and task.gates == ("entity F1",) and task.types == ("city", "person")
    with pytest.raises(SettingsError, match="no option 'stride'"):
        task.with_options({"stride": 3})


def test_impossible_tasks_are_refused() -> None:
    with pytest.raises(DataError, match=r"at least two different tags, got \['O'\]"):
        TokenClassification(("O",))
    with pytest.raises(DataError, match="two different tags"):
        TokenClassification(("O", "B-x", "B-x"))
    with pytest.raises(SettingsError, match="'last' is unknown; known: none, simple, first, average, max, word"):
        TokenClassification(BIO, aggregation="last")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="stride must be at least 0"):
        TokenClassification(BIO, stride=-1)
