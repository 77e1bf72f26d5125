"""Imported weights compute what transformers computes; students survive saving; bad folders are refused clearly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.distill.huggingface import load_transformers
from attar.distill.student import Student
from attar.runtime.errors import ModelError
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import pad
from tests.models import EDGE_TEXTS, FAMILIES, LABELS, MAX_LENGTH, make_checkpoint, make_student, sentences


def reference(folder: Path) -> Any:
    """The same classifier in transformers."""
    return load_transformers("text-classification", folder, {}).eval()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / family, family, layers=3)
    model = reference(source)
    student = Student.load(source)
    assert student.task == TextClassification(LABELS, MAX_LENGTH)
    texts = [*sentences(12).texts, *EDGE_TEXTS]
    rows = student.encode(texts).ids
    assert max(map(len, rows)) == MAX_LENGTH
    for chosen in ([0], [1, 2, 3], list(range(len(rows))), [rows.index(max(rows, key=len))]):
        # Wider than the longest row, where there is room: padding must not matter.
        width = min(MAX_LENGTH, max(len(rows[i]) for i in chosen) + 5)
        ids, mask = (torch.from_numpy(a) for a in pad([rows[i] for i in chosen], student.pad_id, width))
        with torch.no_grad():
            golden = model(ids, attention_mask=mask).logits
            found = student.encoder(ids, mask).heads["logits"]
        assert golden.abs().max() > 0.1  # a comparison of zeros would prove nothing
        assert (found - golden).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_positions_start_behind_the_padding_token(family: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / family, family, pad_token_id=0)
    ids, mask = torch.tensor([[2, 9, 10, 3]]), torch.ones(1, 4, dtype=torch.int64)
    with torch.no_grad():
        golden = reference(source)(ids, attention_mask=mask).logits
        found = Student.load(source).encoder(ids, mask).heads["logits"]
    assert (found - golden).abs().max() < 1e-5


def test_hidden_states_equal_transformers(bert: Path) -> None:
    student = Student.load(bert)
    ids, mask = (torch.from_numpy(a) for a in pad(student.encode(sentences(5).texts).ids, student.pad_id))
    with torch.no_grad():
        golden = reference(bert)(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1:]
        found = student.encoder(ids, mask).hidden
    assert [h.shape[1] for h in found] == [ids.shape[1], 1]  # the head reads one row of the last layer
    for ours, theirs in zip(found, golden, strict=True):
        theirs = theirs[:, : ours.shape[1]]
        real = mask[:, : ours.shape[1]].bool()
        assert (ours - theirs)[real].abs().max() < 1e-5


def test_saved_student_is_the_same(bert: Path, tmp_path: Path) -> None:
    student = Student.load(bert).with_step("some.step", {"a": (1, 2)}, fact=3.5)
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    texts = [*sentences(6).texts, *EDGE_TEXTS]
    assert torch.equal(again.logits(texts), student.logits(texts))
    assert again.digest() == student.digest()
    assert again.task == student.task
    assert again.lineage == ({"use": "some.step", "settings": {"a": [1, 2]}, "fact": 3.5},)
    assert sorted(p.name for p in (tmp_path / "student").iterdir()) == [
        "model.safetensors", "student.json", "tokenizer.json",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["student"]


def test_digest_sees_every_weight(bert: Path) -> None:
    student = Student.load(bert)
    before = student.digest()
    for name, value in student.encoder.named_parameters():
        with torch.no_grad():
            old = value.flatten()[0].item()
            value.view(-1)[0] = float(np.nextafter(np.float32(old), np.float32(9)))
            assert student.digest() != before, name
            value.view(-1)[0] = old
    assert student.digest() == before


def test_too_many_tokens(bert: Path) -> None:
    ids = torch.ones(1, MAX_LENGTH + 1, dtype=torch.int64)
    with pytest.raises(ModelError, match=f"{MAX_LENGTH + 1} tokens, but the model has {MAX_LENGTH} positions"):
        Student.load(bert).encoder(ids, torch.ones_like(ids))


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_unknown_architecture(folder: Path) -> None:
    change_config(folder, model_type="gpt2")
    with pytest.raises(ModelError, match=r"architecture 'gpt2' in .* known: bert, distilbert"):
        Student.load(folder)


def test_unknown_activation(folder: Path) -> None:
    change_config(folder, hidden_act="swish")
    with pytest.raises(ModelError, match="activation 'swish' is not supported"):
        Student.load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name) as caught:
        Student.load(folder)
    assert str(folder) in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder at .*nowhere"):
        Student.load(tmp_path / "nowhere")


def test_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        Student.load(folder)


def test_no_head(folder: Path) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"copy: a BertModel has no head that attar serves: fine-tune it first"):
        Student.load(folder)


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_weights(keep: int, folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        Student.load(folder)


def test_missing_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"lacks the weight 'bert\.encoder\.layer\.1\.output\.dense\.weight'"):
        Student.load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_saved_student_without_a_file(name: str, tmp_path: Path) -> None:
    student = make_student(tmp_path / "checkpoint", layers=1)
    student.save(tmp_path / "student")
    (tmp_path / "student" / name).unlink()
    with pytest.raises(ModelError, match=name):
        Student.load(tmp_path / "student")


def test_saved_student_truncated(tmp_path: Path) -> None:
    student = make_student(tmp_path / "checkpoint", layers=1)
    student.save(tmp_path / "student")
    for name in ("model.safetensors", "student.json"):
        path = tmp_path / "student" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError, match=name):
            Student.load(tmp_path / "student")
        path.write_bytes(whole)
    Student.load(tmp_path / "student")
