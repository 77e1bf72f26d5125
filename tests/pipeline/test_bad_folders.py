"""Damaged models and bundles, and an --out that is taken, end in exit code 2 and one message with a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.pipeline.refusals import CONVERT, READERS, Refused


@READERS
def test_a_model_folder_without_tokenizer(here: Path, refused: Refused, command: tuple[str, ...]) -> None:
    (here / "base/tokenizer.json").unlink()
    message = refused(*command, "train.csv")
    assert "base has no tokenizer.json; save the fast tokenizer" in message


@READERS
def test_an_architecture_that_cannot_be_imported(here: Path, refused: Refused, command: tuple[str, ...]) -> None:
    config = json.loads((here / "base/config.json").read_text())
    (here / "base/config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    message = refused(*command, "train.csv")
    # Any architecture converts as it is, but these are the weights of another.
    expected = "no 'score.weight' among the weights" if command[0] == "convert" else "'gpt2' in base cannot be imported"
    assert expected in message


@pytest.mark.parametrize("damage", ["truncated", "missing", "no config", "config", "no folder"])
def test_a_damaged_model_folder(here: Path, refused: Refused, damage: str) -> None:
    weights, config = here / "base/model.safetensors", here / "base/config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "config":
        config.write_text("{")
    else:
        shutil.rmtree(here / "base")
    assert "base" in refused(*CONVERT, "train.csv")


@pytest.mark.parametrize("verb", [("predict", "bundle", "a film"), ("inspect", "bundle"), ("verify", "bundle")])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_bundle(here: Path, refused: Refused, verb: tuple[str, ...], damage: str) -> None:
    model = here / "bundle/model.onnx"
    data = bytearray(model.read_bytes())
    if damage == "truncated":
        model.write_bytes(data[:-10])
    elif damage == "altered":
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    else:
        model.unlink()
    message = refused(*verb)
    assert "bundle/model.onnx" in message and "export it again" in message


TAKEN = [(v, o) for v in ("distill", "compress", "export", "convert") for o in ("file", "file/below", "folder")]


# A run writes beside what is in a folder and replaces only its own, so that folder is not taken for it.
@pytest.mark.parametrize(("verb", "out"), [("run", "file"), ("run", "file/below"), *TAKEN])
def test_an_out_that_is_taken(here: Path, refused: Refused, verb: str, out: str) -> None:
    """A file, a file in the way, or a folder of something else, which must not be replaced."""
    (here / "file").write_text("precious")
    (here / "folder").mkdir()
    (here / "folder/notes.txt").write_text("precious")
    command = {
        "run": "run recipe.toml",
        "distill": "distill base --data train.csv",
        "compress": "compress base --teacher base --data train.csv",
        "export": "export base",
        "convert": "convert base --data train.csv --allow-failed-gate",
    }[verb].split()
    message = refused(*command, "--out", out)
    assert "file" in message or "folder" in message
    assert "choose another --out" in message
    assert (here / "file").read_text() == (here / "folder/notes.txt").read_text() == "precious"
