"""Students that are no transformers: how they start, what they learn, and what can be done to them afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import attar
from attar.compress import vocabulary
from attar.compress.factorize import activation_aware
from attar.compress.prune import ffn, heads
from attar.compress.quantize import int8
from attar.compress.quantize.plan import QuantPlan
from attar.distill import distil, finetune
from attar.distill.student import Student
from attar.distill.students import convolutional, recurrent, tfidf
from attar.distill.students.table import word_table
from attar.export import parity
from attar.export.bundle import Evidence, card, manifest, write
from attar.export.onnx import to_onnx
from attar.runtime.bench.paired import Ratio
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from tests.distill.test_training import HELD_OUT, SETTINGS, TASK, TRAIN, accuracy, context
from tests.models import EDGE_TEXTS, KINDS, corpus, inputs, make_checkpoint, make_student, quiet, sentences

SIZES: dict[str, tuple[ModuleType, Any]] = {
    "lstm": (recurrent, recurrent.Settings(width=16, hidden=12)),
    "gru": (recurrent, recurrent.Settings("gru", width=32, hidden=10, layers=2, dense=8)),
    "convolutional": (convolutional, convolutional.Settings(width=16, filters=12)),
    "even": (convolutional, convolutional.Settings(width=32, filters=7, widths=(2, 1, 4), dense=8)),
}
EVERY = pytest.mark.parametrize("name", SIZES)
NO_CONTEXT: Any = None


def started(student: Student, name: str) -> Student:
    module, settings = SIZES[name]
    result: Student = module.apply(student, settings, NO_CONTEXT)
    return result


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("students") / "bert")


# --- the start ----------------------------------------------------------------------------------------------------


def test_words_start_as_principal_components(given: Student) -> None:
    words = given.encoder.words.weight.detach().numpy().astype(np.float64)
    u, s, _ = np.linalg.svd(words - words.mean(0), full_matrices=False)
    expected = u[:, :8] * s[:8]
    expected /= np.sqrt((expected**2).mean())
    found = word_table(given, 8).numpy()
    signs = np.sign((found * expected).sum(0))
    assert np.abs(found - signs * expected).max() < 1e-4
    assert np.array_equal(word_table(given, 8).numpy(), found)
    whole = word_table(given, 32)
    assert whole.pow(2).mean().item() == pytest.approx(1.0, rel=1e-5)
    assert torch.corrcoef(torch.stack([whole.flatten(), given.encoder.words.weight.flatten()]))[0, 1] > 0.99999


@EVERY
def test_the_start_is_new_and_the_same_every_time(name: str, given: Student) -> None:
    digest = given.digest()
    first = started(given, name)
    assert given.digest() == digest
    assert started(given, name).digest() == first.digest()
    module, settings = SIZES[name]
    assert module.apply(given, replace(settings, seed=1), NO_CONTEXT).digest() != first.digest()
    assert first.tokenizer == given.tokenizer and first.task == given.task and first.pad_id == given.pad_id
    assert first.encoder.depth == 0
    quantized = replace(given, plan={"scales": {}, "words": True, "bits": 8})
    assert started(quantized, name).plan is None


@pytest.mark.parametrize("kind", KINDS)
@EVERY
def test_every_kind_of_task(name: str, kind: str, tmp_path: Path) -> None:
    student = started(make_student(tmp_path / "m", kind=kind), name)
    texts = (*corpus(kind, 12, seed=3).texts, *inputs(kind, EDGE_TEXTS))
    assert parity.check(student, texts).max_abs < 1e-5
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    mine, theirs = (parity.flat(s.outputs(s.encode(texts))) for s in (again, student))
    assert mine.keys() == {h.name for h in student.task.heads}
    assert all(np.array_equal(mine[head], theirs[head]) for head in mine)
    assert to_onnx(again) == to_onnx(student)


@EVERY
def test_padding_is_not_read(name: str, given: Student) -> None:
    network = started(given, name).encoder
    ids = torch.tensor([[2, 9, 30, 11, 3]])
    longer, mask = torch.cat([ids, torch.tensor([[7, 8, 9]])], 1), torch.tensor([[1] * 5 + [0] * 3])
    with torch.no_grad():
        alone = network(ids, torch.ones_like(ids)).heads["logits"]
        padded = network(longer.repeat(2, 1), torch.cat([mask, torch.ones_like(mask)])).heads["logits"]
    assert (padded[0] - alone[0]).abs().max() < 1e-6
    assert (padded[1] - alone[0]).abs().max() > 1e-4


def test_filters_see_as_many_tokens_as_they_are_wide(given: Student) -> None:
    """Against PyTorch's own padding="same", for odd widths (it warns of even ones)."""
    network = started(given, "convolutional").encoder
    seen: list[torch.Tensor] = []
    network.heads["logits"].register_forward_pre_hook(lambda _, found: seen.append(found[0]))
    ids = torch.tensor([[2, 9, 30, 11, 3]])
    with torch.no_grad():
        network(ids, torch.ones_like(ids))
        x = network.words(ids).transpose(1, 2)
        expected = [torch.nn.functional.conv1d(x, f.weight, f.bias, padding="same") for f in network.filters]
    assert (seen[0].transpose(1, 2) - torch.relu(torch.cat(expected, 1))).abs().max() < 1e-6


def test_whole_texts_are_read_as_maxima(given: Student) -> None:
    assert [h.reads for h in given.encoder.shape.heads] == ["first"]
    assert [h.reads for h in started(given, "lstm").encoder.shape.heads] == ["max"]


# --- learning -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teaching")
    base = make_checkpoint(folder / "base", trained=False)
    finetune.finetune(base, TASK, TRAIN, SETTINGS, folder / "teacher", quiet)
    return folder / "teacher"


@pytest.mark.parametrize("name", ["lstm", "gru", "convolutional"])
def test_a_student_learns(name: str, teacher: Path) -> None:
    settings = distil.Settings(epochs=6, batch_size=16, learning_rate=5e-3, train_words=True)
    student = started(Student.load(teacher), name)
    before = student.encoder.words.weight.clone()
    learned = distil.apply(student, settings, context(teacher, teacher.with_name("targets")))
    assert accuracy(learned, HELD_OUT) > 85 > accuracy(student, HELD_OUT)
    assert not learned.encoder.words.weight.equal(before)
    assert student.encoder.words.weight.equal(before)
    assert [step["use"] for step in learned.lineage] == [
        f"distill.students.{student.encoder.shape.kind}",
        "distill.distil",
    ]


# --- and afterwards -----------------------------------------------------------------------------------------------


@EVERY
def test_quantizing_stores_the_words_as_int8(name: str, given: Student) -> None:
    student = started(given, name)
    made: Any = SimpleNamespace(
        some=lambda _: TRAIN.texts, score=lambda s: 90.0, speedup=lambda a, b: Ratio(1.1, 1.0, 1.2, 5)
    )  # fmt: skip
    result = int8.apply(student, int8.Settings(), made)
    assert result.lineage[-1]["tried"] == {"words": {"loss_points": 0.0, "speedup": 1.1}}
    assert QuantPlan.from_json(result.plan) == QuantPlan(words="int8", bits=int8.bits_of("auto"))
    saved = len(to_onnx(student)) - len(to_onnx(result))
    table = student.encoder.words.weight
    assert saved > 0.6 * table.numel() * 3
    found = manifest(result, "small")
    assert found.scheme == "int8 words, all else fp32"
    assert "x86" not in found.requires
    assert manifest(student, "small").scheme == "fp32"
    check = parity.check(result, HELD_OUT.texts)
    assert 0 < check.scheme_max_probability < 0.02


@EVERY
def test_the_card_says_what_is_inside(name: str, given: Student) -> None:
    student = started(given, name)
    line = next(line for line in card(student, "small", Evidence()).splitlines() if " network: " in line)
    assert line.startswith(f"- {student.encoder.shape.kind} network: vocab {student.encoder.shape.vocab}, width ")
    assert (f"cell {name}" in line) == (name in ("lstm", "gru"))


@EVERY
def test_a_bundle_answers_as_the_student_did(name: str, given: Student, tmp_path: Path) -> None:
    student = started(given, name)
    write(student, tmp_path / "bundle", name="small")
    model = attar.load(tmp_path / "bundle")
    assert [a.label for a in model(list(HELD_OUT.texts))] == [a.label for a in student.answer(HELD_OUT.texts)]


@EVERY
def test_another_vocabulary(name: str, given: Student) -> None:
    student = started(given, name)
    few = Examples(("The film was charming.", "a dull plot"), None, "few")
    made: Any = SimpleNamespace(train=few, unlabelled=Examples((), None, "nothing"))
    small = vocabulary.apply(student, vocabulary.Settings(), made)
    assert small.encoder.shape.vocab < student.encoder.shape.vocab
    assert (small.logits(few.texts) - student.logits(few.texts)).abs().max() < 1e-5
    parity.check(small, EDGE_TEXTS)


def test_another_vocabulary_of_a_student_with_more_tables(given: Student) -> None:
    student = tfidf.apply(given, tfidf.Settings(), SimpleNamespace(train=sentences(8)))  # type: ignore[arg-type]  # all of a context that the step reads
    made: Any = SimpleNamespace(train=sentences(8), unlabelled=Examples((), None, "nothing"))
    with pytest.raises(SettingsError, match=r"a tfidf student has other tables .*; put compress\.vocabulary before"):
        vocabulary.apply(student, vocabulary.Settings(), made)


@pytest.mark.parametrize("step", [heads, ffn, activation_aware], ids=lambda step: step.__name__)
@pytest.mark.parametrize("name", ["lstm", "convolutional"])
def test_surgery_on_layers_is_refused(name: str, step: ModuleType, given: Student) -> None:
    student = started(given, name)
    with pytest.raises(SettingsError, match=f"only a transformer .*, and this one is {student.encoder.shape.kind}"):
        step.apply(student, step.Settings(), SimpleNamespace(train=TRAIN))


@pytest.mark.parametrize(
    ("module", "wrong", "message"),
    [
        (recurrent, {"cell": "rnn"}, "unknown cell 'rnn'; known: lstm, gru"),
        (recurrent, {"layers": 0}, "layers must be at least 1"),
        (recurrent, {"dense": -1}, "dense at least 0"),
        (convolutional, {"filters": 0}, "filters must be at least 1"),
        (convolutional, {"widths": ()}, "different numbers of tokens"),
        (convolutional, {"widths": (3, 3)}, "different numbers of tokens"),
        (convolutional, {"widths": (0,)}, "different numbers of tokens"),
    ],
)
def test_settings_that_make_no_network(module: ModuleType, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        module.Settings(**wrong)


@pytest.mark.parametrize("module", [recurrent, convolutional])
def test_words_cannot_become_wider(module: ModuleType, given: Student) -> None:
    with pytest.raises(SettingsError, match="width must be between 1 and the 32 of the given student, not 33"):
        module.apply(given, module.Settings(width=33), NO_CONTEXT)
