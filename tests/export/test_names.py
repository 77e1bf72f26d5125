"""Heads may be called as users like: no name of theirs meets one that a graph uses itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from attar.distill.student import Student
from attar.export import parity
from attar.export.onnx import to_onnx
from attar.export.onnx.plain import export_plain
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.regression import Regression
from attar.runtime.tasks.tokens import TokenClassification
from attar.runtime.tokenizer import pad
from tests.export.plans import planned
from tests.models import LABELS, MAX_LENGTH, TAGS, add_heads, make_checkpoint, sentences

TEXTS = sentences(6, seed=3).texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that heads are put on, one set after another."""
    return make_checkpoint(tmp_path_factory.mktemp("names") / "m", kind="multi-task", layers=1)


def called(folder: Path, names: Sequence[str]) -> Student:
    """A student whose heads have these names: one reads the first token, one all of them, one gives a number."""
    kinds = TextClassification(LABELS), TokenClassification(TAGS, stride=8, aggregation="word"), Regression()
    add_heads(folder, MultiTask(tuple(zip(names, kinds, strict=True)), MAX_LENGTH))
    return Student.load(folder)


def words_of(model: bytes) -> list[str]:
    """What a graph calls its own tensors, as far as a head could be called so too."""
    graph = onnx.load_from_string(model).graph
    known = [name for node in graph.node for name in node.output] + [weight.name for weight in graph.initializer]
    given = {each.name for each in (*graph.input, *graph.output)}
    return sorted({name for name in known if name.isidentifier()} - given)


@pytest.mark.parametrize("scheme", ["fp32", "per_token", "static"])
def test_heads_called_as_tensors_of_our_graph(scheme: str, folder: Path) -> None:
    internal = words_of(to_onnx(planned(called(folder, ("a", "b", "c")), scheme)))
    assert {"zero", "one", "words", "first_row"} <= set(internal)
    internal += ["batch", "a", "a_product", "c"]
    for start in range(0, len(internal), 3):
        names = internal[start : start + 3]
        student = planned(called(folder, [*names, "x", "y"][:3]), scheme)
        assert parity.check(student, TEXTS).max_abs < 1e-4, names
        outputs = onnx.load_from_string(to_onnx(student)).graph.output
        assert [o.name for o in outputs] == [h.name for h in student.task.heads]


def test_heads_called_as_tensors_of_the_plain_export(folder: Path) -> None:
    internal = words_of(export_plain(folder, called(folder, ("a", "b", "c")).task))
    assert {"embedding", "linear"} <= set(internal)
    student = called(folder, ("embedding", "linear", internal[-1]))
    encoded = student.encode(TEXTS)
    found = OnnxEngine(export_plain(folder, student.task), threads=1).run(*pad(encoded.ids, student.pad_id))
    expected = student.outputs(encoded)
    for head in student.task.heads:
        for row, ids in enumerate(encoded.ids):
            mine = found[head.name][row]
            mine = mine[: len(ids)] if head.reads == "tokens" else mine
            assert np.abs(mine - expected[head.name][row]).max() < 1e-5
