"""Back to Hugging Face: transformers computes what the student does, or the reason why it cannot is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from attar.compress.quantize.plan import QuantPlan
from attar.distill.distil import take_layers
from attar.distill.encoder import LayerShape, resized
from attar.distill.student import Student
from attar.distill.students.encoder import narrowed
from attar.export.folders import huggingface
from attar.export.folders.package import package
from attar.export.folders.source import read_source
from attar.runtime.errors import ParityError, SettingsError
from tests.models import FAMILIES, KINDS, inputs, make_student, sentences

TEXTS = (*(str(t) for t in sentences(5, seed=3).texts), "")
ONE_CLASS = tuple(kind for kind in KINDS if kind != "multi-task")


def packaged(student: Student, folder: Path) -> Path:
    """The student's checkpoint by way of its saved folder."""
    student.save(folder / "student")
    package(read_source(folder / "student"), "huggingface", folder / "out")
    return folder / "out"


def by_transformers(folder: Path, texts: tuple[Any, ...], student: Student) -> list[Any]:
    """The outputs of the class that config.json names, text by text, by its own tokenizer."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        rows = [text] if isinstance(text, str) else [text[0], text[1]]
        given = tokenizer(*rows, return_tensors="pt", truncation=True)
        with torch.no_grad():
            result = model(**given)
        if student.task.kind == "question-answering":
            found.append(torch.stack([result.start_logits, result.end_logits], -1)[0].numpy())
        elif student.task.kind == "embeddings":
            mean = result.last_hidden_state[0].mean(0)
            found.append((mean / mean.norm()).numpy())
        else:
            found.append(result.logits[0].numpy())
    return found


@pytest.mark.parametrize(
    ("family", "kind"),
    [(f, "text-classification") for f in FAMILIES] + [("bert", k) for k in ONE_CLASS if k != "text-classification"]
    + [("distilbert", "token-classification"), ("mpnet", "embeddings"), ("electra", "pairs"), ("roberta", "pairs")],
)  # fmt: skip
def test_transformers_computes_the_same(family: str, kind: str, tmp_path: Path) -> None:
    student = make_student(tmp_path / "given", family, kind=kind)
    # To transformers an empty second text is none.
    texts = inputs(kind, TEXTS[:5] if student.task.pairs else TEXTS)
    folder = packaged(student, tmp_path)
    expected = student.outputs(student.encode(texts))[student.task.heads[0].name]
    for found, wanted in zip(by_transformers(folder, texts, student), expected, strict=True):
        assert np.abs(found - wanted).max() < 1e-5
    again = Student.load(folder)
    assert again.task == student.task, "what attar reads of it"
    for found, wanted in zip(again.outputs(again.encode(texts))[student.task.heads[0].name], expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_temperature_and_a_unit_are_in_the_weights(tmp_path: Path) -> None:
    student = make_student(tmp_path / "given")
    warm = replace(student, task=replace(student.task, temperature=2.5))
    found = by_transformers(packaged(warm, tmp_path), TEXTS, warm)
    np.testing.assert_allclose(np.stack(found), student.logits(TEXTS).numpy() / 2.5, atol=1e-6)
    number = make_student(tmp_path / "number", kind="regression")
    scaled = replace(number, task=replace(number.task, mean=3.0, scale=7.0))
    found = by_transformers(packaged(scaled, tmp_path), TEXTS, scaled)
    np.testing.assert_allclose(np.ravel(found), [a.value for a in scaled.answer(TEXTS)], atol=1e-5)


def test_fewer_layers_and_a_plan_are_no_obstacle(tmp_path: Path) -> None:
    student = take_layers(make_student(tmp_path / "given", layers=3), (1, 3))
    folder = packaged(replace(student, plan=QuantPlan().to_json()), tmp_path)
    found = by_transformers(folder, TEXTS, student)
    assert np.abs(np.stack(found) - student.logits(TEXTS).numpy()).max() < 1e-5
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 2


def changed(student: Student, *layers: LayerShape) -> Student:
    """A student of other layers, with weights that do not matter."""
    return replace(student, encoder=resized(student.transformer, layers))


SHAPE = LayerShape(4, 8, 64)
REFUSED: dict[str, tuple[tuple[LayerShape, ...], str]] = {
    "uneven": ((SHAPE, LayerShape(3, 8, 64)), "layer 1 has 4 heads of 8 and 64 neurons, layer 2 3 heads of 8"),
    "factorized": ((SHAPE, LayerShape(4, 8, 64, {"query": 2})), r"layer 2 is factorized \(query\)"),
    "narrow": ((LayerShape(3, 8, 64),) * 2, "its layers have 3 heads of 8, which is not the hidden size, 32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_has_no_model_for_is_refused(name: str, tmp_path: Path) -> None:
    layers, message = REFUSED[name]
    student = changed(make_student(tmp_path / "given"), *layers)
    with pytest.raises(SettingsError, match=message):
        packaged(student, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = huggingface.state_of

    def wrong(student: Student, family: str) -> dict[str, torch.Tensor]:
        state = whole(student, family)
        return {**state, "classifier.bias": state["classifier.bias"] + 0.01}

    monkeypatch.setattr(huggingface, "state_of", wrong)
    with pytest.raises(ParityError, match="transformers computes other logits of this checkpoint"):
        packaged(make_student(tmp_path / "given"), tmp_path)
    assert not (tmp_path / "out").exists()


def test_mpnet_whose_layers_differ_in_distances_is_refused(tmp_path: Path) -> None:
    student = make_student(tmp_path / "given", "mpnet")
    with torch.no_grad():
        student.encoder.state_dict()["layers.1.relative.weight"].add_(0.1)
    with pytest.raises(SettingsError, match="tables of distances of their own, and mpnet has one for all"):
        packaged(student, tmp_path)


def test_a_narrowed_head_is_refused(tmp_path: Path) -> None:
    student = narrowed(make_student(tmp_path / "given"), 24)
    with pytest.raises(SettingsError, match=r"transformers can hold this student: its layers have|its head has"):
        packaged(student, tmp_path)
