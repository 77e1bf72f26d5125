"""Every kind of head of every family gives what transformers gives; what a folder says of its task is understood."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from attar.distill.checkpoint import HEADS, POOLING
from attar.distill.huggingface import HuggingFace, load_transformers
from attar.distill.student import Student
from attar.distill.teacher import Teacher
from attar.runtime.errors import AttarError, ModelError
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tasks.regression import Regression
from attar.runtime.tasks.tokens import TokenClassification
from attar.runtime.tokenizer import pad
from tests.models import (
    EDGE_TEXTS,
    FAMILIES,
    KINDS,
    LABELS,
    MAX_LENGTH,
    MULTI,
    TAGS,
    add_pooling,
    corpus,
    inputs,
    make_checkpoint,
    make_student,
)

TYPED = {"bert", "electra"}
"""Families that were pretrained with two token types."""


def golden(folder: Path, family: str, kind: str, ids: Tensor, mask: Tensor, types: Tensor | None) -> dict[str, Tensor]:
    """What transformers makes of these rows; pooling and the heads of a multi-task model are worked out here."""
    named = {"pairs": "text-classification", "multi-label": "text-classification"}.get(kind, kind)
    model = load_transformers(named, folder, {}).eval()
    given = {"token_type_ids": types} if family in TYPED and types is not None else {}
    found = model(ids, attention_mask=mask, **given)
    if kind == "question-answering":
        return {"logits": torch.stack([found.start_logits, found.end_logits], -1)}
    if kind == "embeddings":
        mean = torch.stack([row[real.bool()].mean(0) for row, real in zip(found.last_hidden_state, mask, strict=True)])
        return {"sentence_embedding": mean / mean.norm(dim=1, keepdim=True)}
    if kind == "multi-task":
        own, states = load_file(folder / HEADS), found.last_hidden_state
        read = {"sentiment": states[:, 0], "spans": states}
        return {name: x @ own[f"{name}.weight"].T + own[f"{name}.bias"] for name, x in read.items()}
    return {"logits": found.logits}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*FAMILIES, "modernbert"])
def test_outputs_equal_transformers(family: str, kind: str, tmp_path: Path) -> None:
    student = make_student(tmp_path / "m", family, kind=kind)
    encoded = student.encode([*corpus(kind, 6).texts, *inputs(kind, EDGE_TEXTS)])
    assert max(map(len, encoded.ids)) == MAX_LENGTH
    ids, mask = (torch.from_numpy(a) for a in pad(encoded.ids, student.pad_id))
    types = None if encoded.types is None else torch.from_numpy(pad(encoded.types, 0)[0])
    # MPNet's tokenizer gives both texts of a pair type 0.
    typed = kind in {"pairs", "question-answering"} and family != "mpnet"
    assert (types is not None and types.max() == 1) == typed
    with torch.no_grad():
        expected = golden(tmp_path / "m", family, kind, ids, mask, types)
        found = student.encoder(ids, mask, types).heads
    assert found.keys() == expected.keys() == {h.name for h in student.task.heads}
    for head in student.task.heads:
        real = mask.bool() if head.reads == "tokens" else slice(None)
        assert expected[head.name].abs().max() > 0.1  # a comparison of zeros would prove nothing
        assert (found[head.name] - expected[head.name])[real].abs().max() < 1e-5
    if family in TYPED and types is not None:
        with torch.no_grad():
            untyped = student.encoder(ids, mask).heads["logits"]
        assert (untyped - found["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_says_the_same(kind: str, tmp_path: Path) -> None:
    """Rows of many lengths in batches: the wrapper of the PyTorch model, and the student."""
    student = make_student(tmp_path / "m", kind=kind)
    texts = [*corpus(kind, 40).texts, *inputs(kind, EDGE_TEXTS)]
    encoded = student.encode(texts)
    teacher = Teacher(tmp_path / "m", student.task)
    theirs, ours = teacher.outputs(encoded), student.outputs(encoded)
    for head in student.task.heads:
        assert len(theirs[head.name]) == len(encoded.ids)
        for row, (a, b) in enumerate(zip(theirs[head.name], ours[head.name], strict=True)):
            assert a.shape == b.shape == ((len(encoded.ids[row]), head.outputs) if a.ndim == 2 else (head.outputs,))
            assert np.abs(a - b).max() < 1e-5
    assert len(teacher.answer(texts)) == len(student.answer(texts)) == len(texts)


@pytest.mark.parametrize("kind", ["embeddings", "multi-task", "token-classification"])
def test_a_saved_teacher_is_the_same(kind: str, tmp_path: Path) -> None:
    """What fine-tuning writes: the task in its own file, heads and pooling where transformers has no place for them."""
    student = make_student(tmp_path / "m", kind=kind)
    task = replace(student.task, max_length=32)  # type: ignore[call-arg]
    model = HuggingFace(tmp_path / "m", task)
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    (tmp_path / "saved/tokenizer.json").write_bytes(student.tokenizer)
    again = Student.load(tmp_path / "saved")
    assert again.task == task
    texts = corpus(kind, 5).texts
    mine, theirs = again.outputs(again.encode(texts)), Teacher(tmp_path / "saved", task).outputs(again.encode(texts))
    for name in mine:
        for a, b in zip(mine[name], theirs[name], strict=True):
            assert np.abs(a - b).max() < 1e-5
    expected = replace(student, task=task)
    assert torch.equal(again.logits(texts), expected.logits(texts))


# --- what a folder says of its task -------------------------------------------------------------------------------

GOLDEN_TASKS: dict[str, Task] = {
    "text-classification": TextClassification(LABELS, MAX_LENGTH),
    "multi-label": TextClassification(LABELS, MAX_LENGTH, multi_label=True),
    "regression": Regression(MAX_LENGTH),
    "token-classification": TokenClassification(TAGS, MAX_LENGTH, 12),
    "question-answering": QuestionAnswering(MAX_LENGTH, 16),
    "embeddings": Embedding(32, MAX_LENGTH),
    "multi-task": MULTI,
}


@pytest.mark.parametrize("kind", GOLDEN_TASKS)
def test_the_task_comes_from_the_folder(kind: str, tmp_path: Path) -> None:
    assert make_student(tmp_path / "m", kind=kind, layers=1).task == GOLDEN_TASKS[kind]


def test_one_label(tmp_path: Path) -> None:
    """One output is a number, unless the folder says that it is a label."""
    one = make_checkpoint(tmp_path / "m", kind="multi-label", labels=("spam",), layers=1)
    assert Student.load(one).task == TextClassification(("spam",), MAX_LENGTH, multi_label=True)
    config = json.loads((one / "config.json").read_text()) | {"problem_type": None}
    (one / "config.json").write_text(json.dumps(config))
    assert Student.load(one).task == Regression(MAX_LENGTH)


@pytest.mark.parametrize("kind", ["text-classification", "multi-label", "token-classification"])
@pytest.mark.parametrize(
    ("names", "given"),
    [({"0": "a", "2": "b"}, "0, 2"), ({"1": "a", "2": "b"}, "1, 2"), (["a", "b"], "a, b"), ({"x": "a"}, "x")],
)
def test_outputs_without_a_name(names: Any, given: str, kind: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", kind=kind, layers=1)
    config = json.loads((folder / "config.json").read_text()) | {"id2label": names}
    (folder / "config.json").write_text(json.dumps(config))
    last = len(names) - 1
    with pytest.raises(ModelError, match=rf"m: id2label in config\.json names the outputs {given}; .* 0 to {last} one"):
        Student.load(folder)


@pytest.mark.parametrize(("mode", "pooling"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("max_tokens", "max")])
@pytest.mark.parametrize("normalise", [True, False])
def test_sentence_transformers_pooling(mode: str, pooling: str, normalise: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", kind="embeddings")
    add_pooling(folder, 32, mode, normalise)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    student = Student.load(folder)
    assert (student.task.pooling, student.task.normalise, student.task.max_length) == (pooling, normalise, 20)  # type: ignore[attr-defined]
    encoded = student.encode(corpus("embeddings", 6).texts)
    model = load_transformers("embeddings", folder, {}).eval()
    for ids, found in zip(encoded.ids, student.outputs(encoded)["sentence_embedding"], strict=True):
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        expected = {"cls": states[0], "mean": states.mean(0), "max": states.max(0)}[pooling]
        expected = expected / np.linalg.norm(expected) if normalise else expected
        assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling_mode_cls_token": True}, r"asks for \['mean', 'cls'\]; attar pools by one of mean, cls, max"),
        ({"pooling_mode_mean_tokens": False}, r"asks for \[\]; attar pools by one of"),
        ({"pooling_mode_weightedmean_tokens": True}, r"'pooling_mode_weightedmean_tokens'\]; attar pools by one of"),
    ],
)
def test_other_pooling_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", kind="embeddings", layers=1)
    (folder / POOLING).write_text(json.dumps(json.loads((folder / POOLING).read_text()) | changes))
    with pytest.raises(ModelError, match=words):
        Student.load(folder)


def test_a_further_module_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", kind="embeddings", layers=1)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="has a module 'Dense' that cannot be imported"):
        Student.load(folder)


@pytest.mark.parametrize("kind", ["text-classification", "token-classification", "question-answering", "multi-task"])
def test_a_head_without_weights(kind: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", kind=kind, layers=1)
    path = folder / (HEADS if kind == "multi-task" else "model.safetensors")
    save_file(
        {k: v for k, v in load_file(path).items() if not k.startswith(("classifier", "qa_outputs", "sentiment"))}, path
    )
    with pytest.raises(ModelError, match=r"m: no head '\w+' among the weights: fine-tune it first"):
        Student.load(folder)


def test_a_masked_language_model(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", layers=1)
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(AttarError, match="BertForMaskedLM has no head that attar serves: fine-tune it first"):
        Student.load(folder)
