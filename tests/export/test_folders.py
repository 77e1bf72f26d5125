"""Folders that other systems load, as far as this environment can tell: their files, outputs and refusals.

The systems' own loaders run in benchmarks/folders.py.
"""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import yaml

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export import bundle as writer
from attar.export.folders.graph import adapted
from attar.export.folders.package import RECORD, package
from attar.export.folders.source import read_source
from attar.export.folders.triton import Word, pbtxt
from attar.export.onnx import to_onnx
from attar.runtime.errors import SettingsError
from attar.runtime.model import load
from attar.runtime.tasks.base import softmax
from attar.runtime.tokenizer import pad
from tests.export.plans import Make, maker
from tests.models import inputs, sentences

TEXTS = (*(str(t) for t in sentences(6, seed=3).texts), "", "funny " * 90)
GATE = {"verdict": "pass", "measure": "accuracy"}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("folders"))


def bundled(student: Student, folder: Path, **task: Any) -> Path:
    """A gated bundle of the student, its task changed."""
    student = replace(student, task=replace(student.task, **task))
    writer.write(student, folder, name="tiny one", evidence=writer.Evidence(GATE, "PASS: it does"))
    return folder


def run(model: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    """The outputs of an ONNX file by name."""
    session = ort.InferenceSession(model.read_bytes())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def feeds_of(student: Student) -> dict[str, Any]:
    """Two rows of unlike length, padded."""
    encoded = student.encode(inputs(student.task.kind, TEXTS[:2]))
    ids, mask = pad(encoded.ids[:2], student.pad_id)
    found = {"input_ids": ids, "attention_mask": mask}
    return found if encoded.types is None else {**found, "token_type_ids": pad(encoded.types[:2], 0)[0]}


def test_optimum_has_the_bundle_s_bytes_where_nothing_needs_changing(make: Make, tmp_path: Path) -> None:
    bundle = bundled(make("token-classification"), tmp_path / "b")
    made = package(read_source(bundle), "optimum", tmp_path / "out")
    assert made.own == "model.onnx"
    assert (tmp_path / "out/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["certified"] == "model.onnx" and record["manifest"]["gate"] == GATE
    card = (tmp_path / "out/README.md").read_text()
    assert (
        "(pass) is about the bytes" in card
        and "model.onnx is that file." in card
        and "No gate" not in card
        and "PASS: it does" in card
    )
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"] and config["id2label"]["1"] == "B-thing"
    tokens = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert tokens["pad_token"] == "[PAD]" and "token_type_ids" not in tokens["model_input_names"]


def test_a_temperature_is_in_the_logits(make: Make, tmp_path: Path) -> None:
    student = make("text-classification")
    bundle = bundled(student, tmp_path / "b", temperature=2.5)
    assert not package(read_source(bundle), "optimum", tmp_path / "out").own
    found = run(tmp_path / "out/model.onnx", feeds_of(student))["logits"]
    expected = [list(a.scores.values()) for a in load(bundle, threads=1)(list(TEXTS[:2]))]
    np.testing.assert_allclose(softmax(found), expected, atol=1e-6)
    assert (
        "No gate has judged the model.onnx here: its logits are multiplied by 0.4."
        in (tmp_path / "out/README.md").read_text()
    )


def test_a_regression_gives_its_own_unit(make: Make, tmp_path: Path) -> None:
    student = make("regression")
    bundle = bundled(student, tmp_path / "b", mean=3.0, scale=7.0)
    package(read_source(bundle), "optimum", tmp_path / "out")
    found = run(tmp_path / "out/model.onnx", feeds_of(student))["logits"][:, 0]
    np.testing.assert_allclose(found, [a.value for a in load(bundle, threads=1)(list(TEXTS[:2]))], rtol=1e-5)


def test_spans_are_two_outputs(make: Make) -> None:
    student = make("question-answering")
    model, _ = adapted(to_onnx(student), student.task)
    session = ort.InferenceSession(model)
    assert [o.name for o in session.get_outputs()] == ["start_logits", "end_logits"]
    whole = ort.InferenceSession(to_onnx(student)).run(None, feeds_of(student))[0]
    for place, found in enumerate(session.run(None, feeds_of(student))):
        np.testing.assert_array_equal(found, whole[:, :, place])


def test_embeddings_show_the_states_that_they_are_the_mean_of(make: Make) -> None:
    student, feeds = make("embeddings"), feeds_of(make("embeddings"))
    model, _ = adapted(to_onnx(student), student.task)
    vectors, states = ort.InferenceSession(model).run(["sentence_embedding", "last_hidden_state"], feeds)
    mask = feeds["attention_mask"][:, :, None]
    mean = (states * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(vectors, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)


def test_transformers_js_has_both_precisions_only_with_the_weights(make: Make, tmp_path: Path) -> None:
    student = replace(make("text-classification"), plan=QuantPlan().to_json())
    student.save(tmp_path / "student")
    bundle = bundled(student, tmp_path / "b")
    package(read_source(bundle), "transformers-js", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/onnx").iterdir()] == ["model_quantized.onnx"]
    made = package(read_source(bundle, tmp_path / "student"), "transformers-js", tmp_path / "out")
    assert (made.own, made.other) == ("onnx/model_quantized.onnx", "onnx/model.onnx (fp32)")
    assert sorted(p.name for p in (tmp_path / "out/onnx").iterdir()) == ["model.onnx", "model_quantized.onnx"]
    found = run(tmp_path / "out/onnx/model.onnx", feeds_of(student))["logits"]
    assert np.abs(found - student.logits(TEXTS[:2]).numpy()).max() < 1e-5


@pytest.mark.parametrize(("kind", "name"), [("pairs", "BertTokenizer"), ("embeddings", "PreTrainedTokenizerFast")])
def test_transformers_js_gets_the_class_that_gives_token_types(
    kind: str, name: str, make: Make, tmp_path: Path
) -> None:
    package(read_source(bundled(make(kind), tmp_path / "b")), "transformers-js", tmp_path / "out")
    record = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert record["tokenizer_class"] == name
    assert ("token_type_ids" in record["model_input_names"]) == (kind == "pairs")


class Stub:
    """Triton's side of a Python model."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor = Stub  # type: ignore[attr-defined]  # an empty module, filled here
    module.InferenceResponse = list  # type: ignore[attr-defined]
    module.get_input_tensor_by_name = lambda request, name: next(t for t in request if t.name == name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def python_model(folder: Path) -> Any:
    """The Python model in a repository's folder, started as Triton does; its config.pbtxt by a reading of our own."""
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "string_value:" in line]
    config = {"parameters": {"attar": {"string_value": json.loads(line.split(":", 1)[1])}}}
    names: dict[str, Any] = {"__file__": str(folder / "1/model.py"), "__name__": "model"}
    exec(compile((folder / "1/model.py").read_text(), "model.py", "exec"), names)
    model = names["TritonPythonModel"]()
    model.initialize({"model_config": json.dumps(config)})
    return model


def answer_by_triton(repository: Path, texts: list[Any]) -> dict[str, Any]:
    """Each text as a request of its own, through the three models of the ensemble."""
    rows = [np.array([[t.encode()] if isinstance(t, str) else [p.encode() for p in t]], dtype=object) for t in texts]
    requests = [[Stub("TEXT", np.array(row).reshape(1, -1))] for row in rows]
    encoded = python_model(repository / "tiny_one_tokenize").execute(requests)
    session = ort.InferenceSession((repository / "tiny_one_onnx/1/model.onnx").read_bytes())
    raw = [[Stub("RAW", session.run(None, {t.name: t.array for t in e})[0])] for e in encoded]
    found = python_model(repository / "tiny_one_answer").execute(raw)
    return {t.name: [r[i].array for r in found] for i, t in enumerate(found[0])}


@pytest.mark.parametrize("kind", ["text-classification", "pairs"])
def test_triton_s_models_answer_as_the_bundle(kind: str, make: Make, tmp_path: Path, triton: None) -> None:
    bundle = bundled(make(kind), tmp_path / "b", temperature=0.7, labels=('a "b" \\', "ü"))
    made = package(read_source(bundle), "triton", tmp_path / "out")
    own = (tmp_path / "out" / made.own).read_bytes()
    assert own == (bundle / "model.onnx").read_bytes()
    texts = list(inputs(kind, TEXTS))
    expected = load(bundle, threads=1)(texts)
    found = answer_by_triton(tmp_path / "out", texts)
    assert [row[0, 0].decode() for row in found["LABEL"]] == [a.label for a in expected]
    np.testing.assert_allclose(np.ravel(found["SCORE"]), [a.score for a in expected], atol=1e-6)
    np.testing.assert_allclose(np.concatenate(found["SCORES"]), [list(a.scores.values()) for a in expected], atol=1e-6)


def test_triton_of_several_labels(make: Make, tmp_path: Path, triton: None) -> None:
    bundle = bundled(make("multi-label"), tmp_path / "b", thresholds=(0.4, 0.6), temperature=1.3)
    package(read_source(bundle), "triton", tmp_path / "out")
    found = answer_by_triton(tmp_path / "out", list(TEXTS))
    assert [tuple(json.loads(row[0, 0])) for row in found["LABEL"]] == [
        a.labels for a in load(bundle, threads=1)(list(TEXTS))
    ]


def test_triton_of_numbers_and_vectors(make: Make, tmp_path: Path, triton: None) -> None:
    bundle = bundled(make("regression"), tmp_path / "b", mean=3.0, scale=7.0)
    package(read_source(bundle), "triton", tmp_path / "out")
    expected = [a.value for a in load(bundle, threads=1)(list(TEXTS))]
    np.testing.assert_allclose(np.ravel(answer_by_triton(tmp_path / "out", list(TEXTS))["VALUE"]), expected, rtol=1e-5)
    bundle = bundled(make("embeddings"), tmp_path / "c", truncate=8, prompt="query: ")
    package(read_source(bundle), "triton", tmp_path / "out")
    vectors = np.concatenate(answer_by_triton(tmp_path / "out", list(TEXTS))["VECTOR"])
    np.testing.assert_allclose(vectors, np.stack([a.values for a in load(bundle, threads=1)(list(TEXTS))]), atol=1e-6)


def test_triton_rounds_lengths_up_so_that_requests_meet(make: Make, tmp_path: Path, triton: None) -> None:
    package(read_source(bundled(make("text-classification"), tmp_path / "b")), "triton", tmp_path / "out")
    model = python_model(tmp_path / "out/tiny_one_tokenize")
    requests = [[Stub("TEXT", np.array([[b"funny " * n]], dtype=object))] for n in (1, 14, 15, 80)]
    found = model.execute(requests)
    # Words, [CLS] and [SEP], in sixteens; at most the 48 tokens that the network reads.
    assert [row[0].array.shape[1] for row in found] == [16, 16, 32, 48]
    assert found[0][1].array.sum() == 3


def test_protobuf_text() -> None:
    """Written by hand after protobuf's text format specification."""
    message = {"a": 'x "y"', "b": [1, -2], "c": Word("KIND"), "d": {"e": True}, "f": [{"g": 1}, {}]}
    assert pbtxt(message) == 'a: "x \\"y\\""\nb: 1\nb: -2\nc: KIND\nd {\n  e: true\n}\nf {\n  g: 1\n}\nf {\n}\n'


def test_kserve_holds_the_bundle_as_it_is(make: Make, tmp_path: Path) -> None:
    bundle = bundled(make("question-answering"), tmp_path / "b")
    package(read_source(bundle), "kserve", tmp_path / "out")
    service = yaml.safe_load((tmp_path / "out/service.yaml").read_text())
    (container,) = service["spec"]["predictor"]["containers"]
    name = container["env"][0]["value"].rpartition("/")[2]
    assert service["metadata"]["name"] == name == "tiny-one"
    assert load(tmp_path / "out" / name, threads=1).manifest.gate == GATE
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / name).iterdir()} == {
        p.name: p.read_bytes() for p in bundle.iterdir()
    }
    # The arguments are those of the verb that it starts.
    from attar.cli import verb_parser

    verb, *arguments = container["args"]
    port = verb_parser(verb).parse_args(arguments).port
    assert port == container["readinessProbe"]["httpGet"]["port"] == container["ports"][0]["containerPort"]


REFUSED = [
    ("triton", "token-classification", "triton has no class for token-classification; it has for text-class"),
    ("triton", "question-answering", "triton has no class for question-answering"),
    ("optimum", "multi-task", "optimum has no class for multi-task"),
    ("huggingface", "text-classification", "is a bundle: add --student"),
]


@pytest.mark.parametrize(("to", "kind", "message"), REFUSED)
def test_what_a_system_has_no_class_for_is_refused(
    to: str, kind: str, message: str, make: Make, tmp_path: Path
) -> None:
    bundle = bundled(make(kind), tmp_path / "b")
    with pytest.raises(SettingsError, match=message):
        package(read_source(bundle), to, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"], "something half-written stays"


def test_a_student_of_another_bundle_is_refused(make: Make, tmp_path: Path) -> None:
    student = make("text-classification")
    bundle = bundled(student, tmp_path / "b")
    student.with_step("compress.prune.heads", {}).save(tmp_path / "other")
    with pytest.raises(SettingsError, match="was not exported from the student in"):
        read_source(bundle, tmp_path / "other")
    student.save(tmp_path / "own")
    with pytest.raises(SettingsError, match="triton takes the bundle's own files and no weights: leave out --student"):
        package(read_source(bundle, tmp_path / "own"), "triton", tmp_path / "out")
    with pytest.raises(SettingsError, match="--student goes with a bundle, and"):
        read_source(tmp_path / "own", tmp_path / "own")


def test_a_student_alone_has_no_certificate(make: Make, tmp_path: Path) -> None:
    make("embeddings").save(tmp_path / "student")
    package(read_source(tmp_path / "student"), "optimum", tmp_path / "out")
    assert "no gate has judged it" in (tmp_path / "out/README.md").read_text()
    assert json.loads((tmp_path / "out" / RECORD).read_text())["manifest"] is None
