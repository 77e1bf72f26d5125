"""MPNet's attention biases by distance: as transformers has them, also over long distances, through every surgery."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from attar.compress import vocabulary
from attar.compress.factorize import svd
from attar.compress.factorize.lowrank import factorized
from attar.compress.prune.shrink import shrink_layers
from attar.distill.distil import take_layers
from attar.distill.encoder import relative_buckets
from attar.distill.huggingface import load_transformers
from attar.distill.network import network_of
from attar.distill.student import Student
from attar.export import parity
from attar.export.onnx import to_onnx
from attar.runtime.data import Examples
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Head
from tests.export.plans import planned, texts_of
from tests.models import EDGE_TEXTS, KINDS, make_checkpoint, make_student, sentences

TEXTS = sentences(24, seed=5).texts
LONG = 200
HEADS = ("text-classification", "token-classification", "question-answering", "embeddings")


def long_student(folder: Path, kind: str = "text-classification", layers: int = 2) -> Student:
    """A student of 200 positions, more than the 128 behind which all distances share a bucket."""
    student = make_student(folder, "mpnet", kind=kind, layers=layers, max_position_embeddings=LONG + 2)
    return replace(student, task=replace(student.task, max_length=LONG))  # type: ignore[call-arg]  # every task has this field


def rows(student: Student) -> tuple[Tensor, Tensor]:
    """Ids and mask (3, 200) of rows of 200, 150 and 20 random tokens."""
    words = student.encoder.shape.vocab
    ids = torch.randint(4, words, (3, LONG), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(LONG) < torch.tensor([LONG, 150, 20])[:, None]).long()
    return torch.where(mask == 1, ids, student.pad_id), mask


def table(student: Student, layer: int) -> Tensor:
    """The biases of a layer by distance (buckets, heads), to be read or changed."""
    return student.encoder.state_dict()[f"layers.{layer}.relative.weight"]


def real(head: Head, mask: Tensor) -> Tensor | slice:
    return mask.bool() if head.reads == "tokens" else slice(None)


@pytest.mark.parametrize("length", [1, 2, 9, 64, 65, 128, 129, 512])
def test_buckets_equal_transformers(length: int) -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    place = torch.arange(length)
    golden = MPNetEncoder.relative_position_bucket(place[None] - place[:, None])
    assert torch.equal(relative_buckets(length, 32), golden)
    # The graph cuts the table of the longest length.
    assert torch.equal(relative_buckets(514, 32)[:length, :length], golden)


@pytest.mark.parametrize("kind", HEADS)
def test_long_rows_equal_transformers_and_the_graph(kind: str, tmp_path: Path) -> None:
    student = long_student(tmp_path / "m", kind)
    ids, mask = rows(student)
    (head,) = student.task.heads
    with torch.no_grad():
        model = load_transformers(kind, tmp_path / "m", {}).eval()
        theirs = model(ids, attention_mask=mask)
        found = student.encoder(ids, mask).heads[head.name]
    if kind == "question-answering":
        golden = torch.stack([theirs.start_logits, theirs.end_logits], -1)
    elif kind == "embeddings":
        weight = mask[:, :, None].float()
        mean = (theirs.last_hidden_state * weight).sum(1) / weight.sum(1)
        golden = mean / mean.norm(dim=1, keepdim=True)
    else:
        golden = theirs.logits
    assert golden.abs().max() > 0.1
    assert (found - golden)[real(head, mask)].abs().max() < 1e-5
    exported = OnnxEngine(to_onnx(student), threads=1).run(ids.numpy(), mask.numpy(), None)[head.name]
    assert (torch.from_numpy(exported) - golden)[real(head, mask)].abs().max() < 1e-5


def test_far_buckets_matter(tmp_path: Path) -> None:
    """The comparisons above would see a wrong bias of long distances."""
    student = long_student(tmp_path / "m")
    ids, mask = rows(student)
    changed = student.copy()
    with torch.no_grad():
        table(changed, 0)[[15, 31]] += 0.5
        before, after = student.encoder(ids, mask).heads["logits"], changed.encoder(ids, mask).heads["logits"]
    assert (before - after)[0].abs().max() > 1e-3  # 200 tokens
    assert torch.equal(before[2], after[2])  # 20 tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["fp32", "per_token"])
def test_parity(scheme: str, kind: str, tmp_path: Path) -> None:
    found = parity.check(planned(make_student(tmp_path / "m", "mpnet", kind=kind), scheme, kind), texts_of(kind))
    assert found.max_abs < 1e-4


def test_one_lookup_of_equal_tables(tmp_path: Path) -> None:
    """Three layers as imported share one lookup, but for the last, which asks for one row."""
    student = make_student(tmp_path / "m", "mpnet", layers=3)

    def lookups() -> list[str]:
        nodes = onnx.load_from_string(to_onnx(student)).graph.node
        return [node.name for node in nodes if node.name.endswith("relative.bias")]

    assert lookups() == ["layers.0.relative.bias", "layers.2.relative.bias"]
    table(student, 1)[3] += 1
    assert lookups() == [f"layers.{i}.relative.bias" for i in range(3)]
    parity.check(student, TEXTS)


def test_other_families_have_no_table(tmp_path: Path) -> None:
    student = make_student(tmp_path / "m", "roberta")
    assert not [name for name in student.encoder.state_dict() if "relative" in name]
    assert "relative" not in student.encoder.shape.to_json()
    assert network_of(student.encoder.shape.to_json()).shape == student.encoder.shape


# --- surgery ------------------------------------------------------------------------------------------------------


def test_pruned_heads_lose_their_column(tmp_path: Path) -> None:
    silent = make_student(tmp_path / "m", "mpnet", layers=3)
    with torch.no_grad():
        for layer in silent.transformer.layers:
            layer.output.weight[:, 8:16] = 0  # the second of four heads of 8
    cut = shrink_layers(silent, TEXTS, [torch.tensor([0, 2, 3])] * 3, None)
    assert torch.equal(table(cut, 1), table(silent, 1)[:, [0, 2, 3]])
    assert (cut.logits(TEXTS) - silent.logits(TEXTS)).abs().max() < 1e-5
    uneven = shrink_layers(silent, TEXTS, [torch.tensor(k) for k in ([1], [0, 3], [0, 1, 2, 3])], None)
    for student in (cut, uneven):
        parity.check(student, TEXTS)
        student.save(tmp_path / "student")
        again = Student.load(tmp_path / "student")
        assert again.digest() == student.digest()
        assert torch.equal(again.logits(TEXTS), student.logits(TEXTS))


def test_narrower_fewer_and_factorized_layers(tmp_path: Path) -> None:
    whole = make_student(tmp_path / "m", "mpnet", layers=3)
    assert take_layers(whole, (1, 2, 3)).digest() == whole.digest()
    assert shrink_layers(whole, TEXTS, None, [torch.arange(64)] * 3).digest() == whole.digest()
    found = svd.apart(whole.transformer.layers[0].ffn_in.weight.detach())
    for student in (
        take_layers(whole, (1, 3)),
        shrink_layers(whole, TEXTS, None, [torch.arange(32)] * 3),
        factorized(whole, {"layers.0.ffn_in": found.cut(8)}),
    ):
        assert torch.equal(table(student, 0), table(whole, 0))
        parity.check(student, TEXTS)


def test_every_table_learns(tmp_path: Path) -> None:
    """Each layer's own biases get a gradient, the last layer's too, which computes one row."""
    student = make_student(tmp_path / "m", "mpnet", layers=3)
    (ids,) = student.encode(TEXTS[:1]).ids
    student.encoder(torch.tensor([ids]), torch.ones(1, len(ids))).heads["logits"].square().sum().backward()
    for layer in student.transformer.layers:
        assert layer.relative.weight.grad.abs().sum(0).min() > 0  # of every head


def test_another_vocabulary(tmp_path: Path) -> None:
    """The marks of RobertaProcessing are found again; texts whose pieces are kept give the same answer."""
    student, few = make_student(tmp_path / "m", "mpnet"), Examples(("The film was charming.", "a plot"), None, "few")
    context: Any = SimpleNamespace(train=few, unlabelled=Examples((), None, "nothing"))
    small = vocabulary.apply(student, vocabulary.Settings(), context)
    assert small.encoder.shape.vocab < student.encoder.shape.vocab
    assert (small.logits(few.texts) - student.logits(few.texts)).abs().max() < 1e-5
    parity.check(small, [*few.texts, *EDGE_TEXTS])


# --- reading ------------------------------------------------------------------------------------------------------


def test_marks_around_texts(tmp_path: Path) -> None:
    student = make_student(tmp_path / "m", "mpnet", kind="pairs")
    words = Tokenizer.from_buffer(student.tokenizer)
    (row,) = student.encode([("a dull film", "the plot")]).ids
    tokens = ["<s>", "a", "dull", "film", "</s>", "</s>", "the", "plot", "</s>"]
    assert [words.id_to_token(i) for i in row] == tokens
    assert student.pad_id == words.token_to_id("<pad>") == 1


def test_positions_start_behind_1_whatever_the_padding(tmp_path: Path) -> None:
    """transformers' MPNet does not ask config.json which token pads."""
    source = make_checkpoint(tmp_path / "m", "mpnet", pad_token_id=0)
    ids, mask = torch.tensor([[4, 9, 10, 3]]), torch.ones(1, 4, dtype=torch.int64)
    with torch.no_grad():
        golden = load_transformers("text-classification", source, {}).eval()(ids, attention_mask=mask).logits
        found = Student.load(source).encoder(ids, mask).heads["logits"]
    assert (found - golden).abs().max() < 1e-5


def test_a_damaged_table(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "m", "mpnet", layers=1)
    path, name = source / "model.safetensors", "mpnet.encoder.relative_attention_bias.weight"
    weights = load_file(path)
    save_file(weights | {name: weights[name][:16].clone()}, path)
    with pytest.raises(ModelError, match="16 buckets of relative positions are not supported; known: 32"):
        Student.load(source)
    del weights[name]
    save_file(weights, path)
    with pytest.raises(ModelError, match=rf"m: the checkpoint lacks the weight '{name}'"):
        Student.load(source)


def test_old_students_still_load(tmp_path: Path) -> None:
    student = make_student(tmp_path / "m")
    student.save(tmp_path / "student")
    assert "relative" not in json.loads((tmp_path / "student/student.json").read_text())["shape"]
    assert Student.load(tmp_path / "student").digest() == student.digest()
