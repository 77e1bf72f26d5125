"""`attar convert` of families that `Encoder` does not import: the plain graph, its proofs, and a bundle like any."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

import attar
from attar.cli import main
from attar.distill.huggingface import load_transformers
from attar.distill.plain import plain_student
from attar.export.invariance import moved
from attar.pipeline import outside
from attar.pipeline.progress import Console
from attar.runtime.bundle import Bundle
from attar.runtime.errors import ModelError
from attar.runtime.tokenizer import Encoded, Ids, pad
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import EDGE_TEXTS, MAX_LENGTH, make_checkpoint, sentences
from tests.pipeline.refusals import Refused

FAMILIES = ("albert", "deberta-v2")
WORKS = "`attar convert` without steps exports any other encoder as it is"


def write_texts(path: Path, labelled: bool) -> str:
    found = sentences(60, seed=5)
    rows = zip(found.texts, found.labels or (), strict=True)
    lines = [{"text": text, **({"label": label} if labelled else {})} for text, label in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp(family) / "base", family)


@pytest.fixture(scope="module")
def bundle(base: Path) -> Iterator[Path]:
    data = write_texts(base.with_name("data.jsonl"), True)
    assert main(["convert", str(base), "--data", data, "--margin", "40", "--out", str(base.with_name("b"))]) == 0
    yield base.with_name("b")


def test_the_bundle_answers_as_transformers(base: Path, bundle: Path, family: str) -> None:
    """Texts at the edges, alone and in a batch, by the library's own model."""
    model = attar.load(bundle, threads=1)
    reference = load_transformers("text-classification", base, {}).eval()
    texts = [*sentences(8, seed=9).texts, *EDGE_TEXTS]
    encoded = model.task.encode(model.tokenizer, texts)
    assert max(map(len, encoded.ids)) == MAX_LENGTH
    found = model.outputs(encoded)["logits"]
    for row, logits in zip(encoded.ids, found, strict=True):
        with torch.no_grad():
            wanted = reference(torch.tensor([row]), attention_mask=torch.ones(1, len(row))).logits[0].numpy()
        assert np.abs(logits - wanted).max() < 1e-5
    single = model.outputs(model.task.encode(model.tokenizer, texts[:1]))["logits"]
    assert np.abs(single[0] - found[0]).max() < 1e-5


def test_the_bundle_says_what_it_is(bundle: Path, family: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = Bundle.read(bundle)
    (entry,) = found.manifest.lineage
    assert entry["use"] == "export.onnx.plain" and 0 <= entry["moved_by_padding"] <= 1e-5
    assert f"exported as it is, by the graph of transformers' own {family}; padding" in entry["note"]
    assert entry["note"] in found.contents["README.md"].decode()
    assert found.manifest.scheme == "fp32" and found.manifest.gate is not None
    assert found.manifest.gate["verdict"] == "pass" and found.manifest.gate["difference"] == 0
    assert len(json.loads(found.contents["golden.json"])["texts"]) == 4
    assert str(Path(torch.__file__).parents[1]).encode() not in found.contents["model.onnx"], "a path of this machine"
    assert main(["verify", str(bundle)]) == 0
    assert main(["inspect", str(bundle)]) == 0 and "exported as it is" in capsys.readouterr().out


def test_steps_are_refused_before_any_work(base: Path, family: str, here: Path, refused: Refused) -> None:
    message = refused("convert", str(base), "--data", "train.csv", "--int8", "--out", "new")
    assert f"the family {family!r} is exported as it is, in fp32: leave out --int8 and --steps, or give a" in message


@pytest.mark.parametrize(
    "command", [("compress", "{}", "--teacher", "{}", "--data", "train.csv"), ("distill", "{}", "--data", "train.csv")]
)
def test_other_verbs_name_what_works(command: tuple[str, ...], here: Path, refused: Refused) -> None:
    base = make_checkpoint(here / "outsider", "albert", layers=1)
    message = refused(*(part.format(base) for part in command), "--out", "new")
    assert "'albert'" in message and WORKS in message


def test_a_recipe_names_what_works(here: Path, refused: Refused) -> None:
    make_checkpoint(here / "outsider", "albert", layers=1)
    (here / "recipe.toml").write_text((here / "recipe.toml").read_text().replace('"base"', '"outsider"'))
    assert WORKS in refused("run", "recipe.toml", "--out", "new")


def test_a_head_without_weights(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", "albert", layers=1)
    path = folder / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"m: no 'classifier\.bias' among the weights: fine-tune it first"):
        plain_student(folder, 512)


def test_positions_behind_the_padding_token(tmp_path: Path) -> None:
    """Of CamemBERT's 50 positions the first two belong to no token, and no file says so."""
    sizes = {"max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1}
    student = plain_student(make_checkpoint(tmp_path / "m", "camembert", layers=1, **sizes), 512)
    assert student.encoder.shape.positions == student.task.max_length == MAX_LENGTH
    student.outputs(student.encode(["a " * 200]))
    assert plain_student(tmp_path / "m", 20).task.max_length == 20


def test_a_model_that_wants_more_than_tokens(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", "t5", layers=1)  # which has a decoder
    with pytest.raises(ModelError, match=r"m cannot be run on token ids and a mask alone: .*decoder"):
        plain_student(folder, 512)


class Neighbourly:
    """An engine whose answer to a row is its length over 100, plus the width of the batch over 1,000."""

    name, at_once = "neighbourly", 1

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        found = mask.sum(1, keepdims=True) / 100 + ids.shape[1] / 1000
        return {"logits": np.repeat(found, 2, axis=1).astype(np.float32)}


def test_what_padding_moves_is_measured(tmp_path: Path) -> None:
    """By hand: the row of 3 tokens gives 0.03 + 0.003 alone, 0.03 + 0.016 padded to the 16 that the model reads."""
    model = attar.load(make_tiny_bundle(tmp_path / "b"), threads=1)
    encoded = Encoded([[1, 2, 3], [1, 2, 3, 4, 5]], [False, False])
    assert moved(model, encoded) < 1e-7
    model.engine = Neighbourly()
    assert moved(model, encoded) == pytest.approx(0.013, abs=1e-6)
    assert pad(encoded.ids, 0)[0].shape == (2, 5)


@pytest.mark.parametrize(("by", "warned"), [(1e-6, False), (0.03, True)])
def test_a_family_that_depends_on_padding_says_so(
    by: float, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = plain_student(make_checkpoint(tmp_path / "m", "albert", layers=1), 512)
    monkeypatch.setattr(outside, "moved", lambda model, encoded: by)
    monkeypatch.setattr(outside, "in_memory", lambda student: None)
    told, warnings = outside.as_it_is(student, ("a film",), Console())
    assert bool(warnings) == warned == ("answers depend on the other texts" in told.lineage[0]["note"])
    assert f"by {by:.1e} of the largest" in told.lineage[0]["note"]
    assert replace(told, lineage=()).digest() == student.digest()


def test_a_modernbert_in_int8(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "modernbert")
    data = write_texts(tmp_path / "data.jsonl", True)
    flags = ["--data", data, "--int8", "--margin", "60", "--allow-failed-gate"]
    assert main(["convert", str(base), *flags, "--out", str(tmp_path / "b")]) == 0
    found = Bundle.read(tmp_path / "b")
    assert found.manifest.scheme.startswith("int8") and "modern network" in found.contents["README.md"].decode()
    assert attar.load(tmp_path / "b", threads=1)("The film was charming").label in ("negative", "positive")


# --- weights beside the graph -------------------------------------------------------------------------------------


def bundle_of(folder: Path, *flags: str) -> Path:
    base, data = make_checkpoint(folder / "base"), write_texts(folder / "data.jsonl", True)
    command: list[Any] = ["convert", base, "--data", data, "--margin", "40", *flags, "--out", folder / "b"]
    assert main([*map(str, command)]) == 0
    return folder / "b"


def test_weights_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = attar.load(bundle_of(tmp_path / "whole"), threads=1)
    monkeypatch.setattr("attar.export.onnx.files.SHARD", 20_000)
    found = Bundle.read(bundle_of(tmp_path / "beside", "--weights-beside", "0.004"))
    names = [name for name in found.contents if name.startswith("weights-")]
    assert names == [f"weights-{i}.bin" for i in range(1, len(names) + 1)] and len(names) > 2
    assert all(len(found.contents[name]) <= 20_000 for name in names)
    assert len(found.contents["model.onnx"]) < 30_000 < sum(len(found.contents[name]) for name in names)
    assert found.manifest.requires["onnxruntime"] == "1.24" and whole.manifest.requires["onnxruntime"] == "1.21"
    texts = list(sentences(9, seed=8).texts)
    assert np.array_equal(attar.load(found.path, threads=1).logits(texts), whole.logits(texts))
    assert main(["verify", str(found.path)]) == 0


@pytest.mark.parametrize("size", ["-1", "2001", "nan"])
def test_weights_that_no_file_could_hold(size: str, here: Path, refused: Refused) -> None:
    message = refused("convert", "base", "--data", "train.csv", f"--weights-beside={size}", "--out", "new")
    assert "from 0 to 2000 MB" in message
