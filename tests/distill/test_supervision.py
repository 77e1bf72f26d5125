"""The teacher's targets along the student's own tokens: aligned by hand, and given back by a perfect teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from attar.distill.heads import Outputs
from attar.distill.student import Student
from attar.distill.supervision import NONE, Supervision, align, supervise
from attar.distill.teacher import Targets
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import IGNORED, Task
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.tokens import TokenClassification
from attar.runtime.tokenizer import Window
from tests.models import MULTI, SPECIALS, corpus, make_student, sentences, template, tokenizer

SHORT = corpus("multi-task", 12, seed=21)
PLAIN = [str(text) for text in SHORT.texts]
LONG = " ".join(PLAIN)
OLD = tokenizer().to_str().encode()


def trained(size: int) -> bytes:
    """Another WordPiece vocabulary, in which words fall into other pieces."""
    result = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIALS), show_progress=False)
    result.train_from_iterator([str(t) for t in sentences(100, seed=22).texts], trainer)
    result.post_processor = template(result)
    return result.to_str().encode()


def spaced() -> bytes:
    """A vocabulary whose tokens hold the space before their word, as those of SentencePiece do."""
    result = Tokenizer(models.BPE())
    result.normalizer = normalizers.Lowercase()
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(SPECIALS), show_progress=False)
    result.train_from_iterator([str(t) for t in sentences(100, seed=22).texts], trainer)
    result.post_processor = template(result)
    return result.to_str().encode()


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("supervision") / "multi", kind="multi-task")


def perfect(task: Task, source: bytes, texts: Sequence[str], labels: Sequence[Any], hidden: int = 0) -> Targets:
    """What a teacher with this tokenizer says that is always right and quite sure; states number their tokens."""
    encoded = task.encode(task.reader(source, 0), texts)
    starts = np.concatenate([[0], np.cumsum([len(r) for r in encoded.ids])])
    heads = {}
    for head in task.heads:
        wanted = task.targets(encoded, labels)[head.name]
        flat = wanted if isinstance(wanted, np.ndarray) else np.concatenate(wanted)
        heads[head.name] = sure(flat, head.outputs)
    states = np.repeat(np.arange(starts[-1])[:, None], 4, axis=1).astype(np.float16)
    return Targets(encoded, starts, heads, {"hidden1": states} if hidden else {})


def sure(classes: NDArray[np.int64], outputs: int) -> NDArray[np.float32]:
    """Logits (.., C) of classes (..) that leave no doubt; the first class where there is none."""
    return 20 * np.eye(outputs, dtype=np.float32)[np.where(classes == IGNORED, 0, classes)]


def right(taught: Supervision, labels: Sequence[Any], row: int) -> Outputs:
    """What the student should say of a row, from the true labels along its own tokens."""
    task = taught.student.task
    wanted = task.targets(taught.encoded, labels)
    heads = {h.name: torch.from_numpy(sure(wanted[h.name][row], h.outputs))[None] for h in task.heads}
    return Outputs(heads, ())


# --- by hand ------------------------------------------------------------------------------------------------------


def window(*spans: tuple[int, int] | None) -> Window:
    """A row of these tokens; None is a special one."""
    sequence = np.array([-1 if s is None else 0 for s in spans], dtype=np.int8)
    offsets = np.array([s or (0, 0) for s in spans], dtype=np.int32).reshape(-1, 2)
    return Window(0, offsets, sequence, sequence.astype(np.int32))


def aligned(mine: Window, *theirs: tuple[Window, int]) -> tuple[list[int], list[bool]]:
    places, inside = align(mine.offsets, mine.sequence, theirs)
    return places.tolist(), inside.tolist()


UNBELIEVABLE = window(None, (0, 2), (2, 12), (13, 17), None)  # [CLS] un ##believable film [SEP]


@pytest.mark.parametrize(
    ("mine", "places", "inside"),
    [
        (window(None, (0, 2), (2, 12), (13, 17), None), [NONE, 11, 12, 13, NONE], []),  # the same tokens
        (window(None, (0, 8), (8, 12), (13, 17), None), [NONE, 11, 12, 13, NONE], [2]),  # unbeliev ##able
        (
            window(None, (0, 12), (13, 15), (15, 16), (16, 17)),
            [NONE, 11, 13, 13, 13],
            [3, 4],
        ),  # unbelievable fi ##l ##m
        (window((0, 12), (12, 13), (17, 18)), [11, NONE, NONE], []),  # what no token of the teacher holds
        (window(None, None), [NONE, NONE], []),
    ],
)
def test_alignment_by_hand(mine: Window, places: list[int], inside: list[int]) -> None:
    found = aligned(mine, (UNBELIEVABLE, 10))
    assert found == (places, [i in inside for i in range(len(places))])


def test_alignment_over_windows_by_hand() -> None:
    """Of a token that two windows hold the first one's is taken; what the teacher has cut off has no target."""
    first, second = window(None, (0, 3), (4, 8), None), window(None, (4, 8), (9, 12), None)
    mine = window(None, (0, 3), (4, 6), (6, 8), (9, 12), (13, 15), None)
    places, inside = aligned(mine, (first, 20), (second, 24))
    assert places == [NONE, 21, 22, 22, 26, NONE, NONE]
    assert inside == [False, False, False, True, False, False, False]


def test_alignment_with_a_teacher_that_sees_nothing() -> None:
    assert aligned(window(None, (0, 3)), (window(None, None), 5)) == ([NONE, NONE], [False, False])


@pytest.mark.parametrize(
    ("tags", "after"),
    [
        ("O B-x I-x B-y I-y", "O I-x I-x I-y I-y"),
        ("O B-x I-x L-x U-x", "O I-x I-x L-x L-x"),
        ("O B-x I-x E-x S-x", "O I-x I-x E-x E-x"),
        ("NOUN VERB", "NOUN VERB"),
        ("O B-x B-y I-y", "O B-x I-y I-y"),  # a type without I-
    ],
)
def test_the_tag_that_goes_on(tags: str, after: str) -> None:
    task = TokenClassification(tuple(tags.split()))
    found = task.continuations("logits")
    assert found is not None and [task.tags[i] for i in found] == after.split()


# --- a student with a vocabulary of its own -----------------------------------------------------------------------

VOCABULARIES = {
    "smaller pieces": (OLD, trained(60)),
    "larger pieces": (trained(60), OLD),
    "other pieces": (trained(90), trained(60)),
    "spaces in the teacher's": (spaced(), OLD),
    "spaces in the student's": (OLD, spaced()),
}


@pytest.mark.parametrize("case", VOCABULARIES)
@pytest.mark.parametrize("length", ["short", "long"])
def test_a_perfect_teacher_gives_back_the_true_tags(length: str, case: str, multi: Student) -> None:
    """Tags along the teacher's tokens, aligned, are those that the labels give along the student's own."""
    theirs, ours = VOCABULARIES[case]
    student = replace(multi, tokenizer=ours)
    labels: Sequence[Any] = SHORT.labels or ()
    texts = PLAIN
    if length == "long":  # several windows a text, and not as many as the teacher has
        moved, start = [], 0
        for text, (_, spans) in zip(PLAIN, labels, strict=True):
            moved += [(a + start, b + start, type_) for a, b, type_ in spans]
            start += len(text) + 1
        texts, labels = [LONG, PLAIN[0]], [("positive", tuple(moved)), labels[0]]
    taught = supervise(student, theirs, perfect(MULTI, theirs, texts, labels), texts)
    assert taught.encoded.ids == student.encode(texts).ids
    assert (len(taught.encoded.ids) > len(texts)) == (length == "long")
    for row, ids in enumerate(taught.encoded.ids):
        batch, found = taught.batch([row]), right(taught, labels, row)
        assert taught.soft_loss(found, batch).item() < 1e-5
        # Every token has a target but [SEP]: another tag for it costs something.
        for token in range(len(ids) - 1):
            other = found.heads["spans"].clone()
            other[0, token] = other[0, token].roll(1)
            changed = Outputs({**found.heads, "spans": other}, ())
            assert taught.soft_loss(changed, batch).item() > 0.1, (row, token)
        flipped = Outputs({**found.heads, "sentiment": found.heads["sentiment"].flip(-1)}, ())
        assert taught.soft_loss(flipped, batch).item() > 1


def test_a_batch_is_the_mean_over_its_known_tokens(multi: Student) -> None:
    """Rows of different lengths together: padding and unknown tokens count for nothing."""
    student = replace(multi, tokenizer=VOCABULARIES["smaller pieces"][1])
    taught = supervise(student, OLD, perfect(MULTI, OLD, PLAIN, SHORT.labels or ()), PLAIN)
    generator = torch.Generator().manual_seed(0)
    rows = [0, 5, 7]
    batch = taught.batch(rows)
    spans = torch.randn(*batch.ids.shape, 5, generator=generator)
    sentiment = torch.stack([right(taught, SHORT.labels or (), i).heads["sentiment"][0] for i in rows])
    together = taught.soft_loss(Outputs({"sentiment": sentiment, "spans": spans}, ()), batch).item()
    weighted, known = 0.0, 0
    for place, i in enumerate(rows):
        length = len(taught.encoded.ids[i])
        one = Outputs({"sentiment": sentiment[place : place + 1], "spans": spans[place : place + 1, :length]}, ())
        weighted += taught.soft_loss(one, taught.batch([i])).item() * (length - 1)
        known += length - 1
    assert together == pytest.approx(weighted / known, rel=1e-4)


def test_states_go_to_the_token_with_the_same_first_character(multi: Student) -> None:
    student = replace(multi, tokenizer=trained(60))
    targets = perfect(MULTI, OLD, PLAIN, SHORT.labels or (), hidden=4)
    taught = supervise(student, OLD, targets, PLAIN)
    found, known = taught.states("hidden1", taught.batch([0, 1]), 60)
    assert found.shape == (2, 60, 4) and known.shape == (2, 60)
    for row in (0, 1):
        own, theirs = taught.encoded.windows, targets.encoded.windows
        assert own is not None and theirs is not None
        start = int(targets.starts[row])
        count = len(taught.encoded.ids[row])
        assert known[row].tolist() == [1] * (count - 1) + [0] * (60 - count + 1)
        assert found[row, 0, 0] == start  # [CLS]
        for token in range(1, count - 1):
            character = own[row].offsets[token, 0]
            holding = [i for i, (a, b) in enumerate(theirs[row].offsets.tolist()) if a <= character < b]
            assert found[row, token, 0] == start + holding[0]


def test_a_prompt_is_part_of_what_is_aligned(tmp_path: Path) -> None:
    """Embedders prefix their texts: states must not be off by the prompt."""
    student = make_student(tmp_path / "m", kind="embeddings", layers=1)
    task = replace(student.task, prompt="we saw: ")  # type: ignore[call-arg]  # embedders have this field
    assert isinstance(task, Embedding)
    student = replace(student, task=task, tokenizer=trained(60))
    encoded = task.encode(task.reader(OLD, 0), PLAIN)
    starts = np.concatenate([[0], np.cumsum([len(r) for r in encoded.ids])])
    states = np.repeat(np.array([i for r in encoded.ids for i in r])[:, None], 4, axis=1).astype(np.float16)
    vectors = np.zeros((len(PLAIN), 32), dtype=np.float32)
    taught = supervise(
        student, OLD, Targets(encoded, starts, {"sentence_embedding": vectors}, {"hidden1": states}), PLAIN
    )
    found, known = taught.states("hidden1", taught.batch([0]), len(taught.encoded.ids[0]))
    assert known.sum() == len(taught.encoded.ids[0]) - 1
    # The first real token begins the prompt and learns from the token that does so in the teacher.
    assert found[0, 1, 0] == encoded.ids[0][1] == Tokenizer.from_str(OLD.decode()).token_to_id("we")


# --- the same vocabulary ------------------------------------------------------------------------------------------


def test_the_same_tokenizer_gives_identical_rows(multi: Student) -> None:
    targets = perfect(MULTI, OLD, [*PLAIN, LONG], [*(SHORT.labels or ()), ("positive", ())], hidden=4)
    taught = supervise(multi, OLD, targets, [*PLAIN, LONG])
    assert taught.encoded is targets.encoded
    assert taught.source == list(range(len(targets.encoded.ids)))
    assert taught.places is None and taught.inside is None
    row = len(PLAIN) + 1  # a window in the middle of the long text
    found, known = taught.states("hidden1", taught.batch([row, 0]), 48)
    count, start = len(targets.encoded.ids[row]), int(targets.starts[row])
    assert found[0, :count, 0].tolist() == list(range(start, start + count))
    assert known.sum(1).tolist() == [count, len(targets.encoded.ids[0])]


@pytest.mark.parametrize("kind", ["question-answering", "pairs"])
def test_another_vocabulary_is_refused_for_two_texts(kind: str, tmp_path: Path) -> None:
    student = make_student(tmp_path / "m", kind=kind, layers=1)
    examples = corpus(kind, 4)
    targets = Targets(student.encode(examples.texts), np.zeros(1, dtype=np.int64), {}, {})
    other = replace(student, tokenizer=trained(60))
    with pytest.raises(SettingsError, match=r"needs its teacher's vocabulary: .* leave out the step that changes"):
        supervise(other, student.tokenizer, targets, examples.texts)
    assert supervise(student, student.tokenizer, targets, examples.texts).places is None
