"""`attar convert` with texts alone: agreement instead of accuracy, steps of a file, and texts that are no good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import attar
from attar.cli import main
from attar.pipeline.unlabelled import foreign_words, own_answers
from attar.runtime.bundle import Bundle
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.embeddings import Embedding
from tests.models import inputs, make_checkpoint, sentences, tokenizer
from tests.pipeline.refusals import Refused

STEPS = """
[[step]]
use = "compress.prune.heads"
keep = 0.75
texts = 30

[[step]]
use = "compress.quantize.int8"
schemes = ["per_token"]
"""
AGREE = "by the model's own answers: an agreement, not an accuracy"


def texts(folder: Path, count: int = 160, kind: str = "text-classification") -> str:
    path = folder / "texts.jsonl"
    rows = inputs(kind, tuple(map(str, sentences(count, seed=5).texts)))
    names = ("question", "context") if kind == "question-answering" else ("text", "text_pair")
    path.write_text(
        "".join(
            json.dumps({"text": r} if isinstance(r, str) else dict(zip(names, r, strict=True))) + "\n" for r in rows
        )
    )
    return str(path)


def convert(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[dict[str, Any], str]:
    assert main(["convert", *command, "--json"]) == 0
    found = capsys.readouterr()
    return json.loads(found.out), found.err


def test_steps_run_on_texts_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_checkpoint(tmp_path / "base")
    (tmp_path / "steps.toml").write_text(STEPS)
    flags = ["--texts", texts(tmp_path), "--steps", str(tmp_path / "steps.toml"), "--margin", "60"]
    found, said = convert(capsys, str(base), *flags, "--out", str(tmp_path / "b"))
    assert [step["use"] for step in found["steps"]] == ["compress.prune.heads", "compress.quantize.int8"]
    assert found["gate"]["teacher"] == 100, "the model agrees with itself"
    assert found["gate"]["labels"] == "the model's own answers" and found["warnings"] == []
    assert found["gate"]["n"] <= 80, "half of the texts judge, and chose nothing"
    assert AGREE in found["verdict"] and "warning" not in said
    bundle = Bundle.read(tmp_path / "b")
    assert bundle.manifest.gate is not None and bundle.manifest.gate["labels"] == "the model's own answers"
    assert AGREE in bundle.contents["README.md"].decode()
    assert main(["inspect", str(tmp_path / "b")]) == 0 and AGREE in capsys.readouterr().out
    assert attar.load(tmp_path / "b")("The film was charming").label in ("negative", "positive")


@pytest.mark.parametrize("kind", ["multi-label", "regression", "token-classification", "question-answering"])
def test_every_kind_agrees_with_itself(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_checkpoint(tmp_path / "base", kind=kind, layers=1)
    file = texts(tmp_path, 90, kind)
    found, _ = convert(capsys, str(base), "--texts", file, "--margin", "90", "--out", str(tmp_path / "b"))
    assert found["gate"]["difference"] == pytest.approx(0, abs=1e-9)
    assert found["gate"]["teacher"] == pytest.approx(100) or kind in ("multi-label", "token-classification")
    assert found["scheme"] == "fp32" and AGREE in found["verdict"]


def test_an_embedder_has_no_answers_to_agree_with() -> None:
    with pytest.raises(SettingsError, match=r"x\.txt: .* for embeddings cannot stand in for labels; give labelled"):
        own_answers(Embedding(4), lambda texts: list(texts), Examples(("a", "b"), None, "x.txt"))


@pytest.mark.parametrize("lines", [[], ["A film."], ["A film.", "a FILM!"] * 20])
def test_too_few_different_texts(lines: list[str], here: Path, refused: Refused) -> None:
    (here / "few.txt").write_text("\n".join(lines))
    message = refused("convert", "base", "--texts", "few.txt", "--int8", "--out", "new")
    assert "few.txt" in message
    assert not lines or "holds 1 different texts, and at least 20 are needed" in message


def test_steps_that_are_none(here: Path, refused: Refused) -> None:
    for content, words in (
        ("", "steps.toml: has no [[step]] table"),
        ('name = "x"\n' + STEPS, "steps.toml: has the key 'name', but only [[step]] tables are read here"),
        (STEPS.replace("keep", "keeps"), "step 1 (compress.prune.heads) has no setting 'keeps'; known: keep"),
    ):
        (here / "steps.toml").write_text(content)
        message = refused("convert", "base", "--data", "train.csv", "--steps", "steps.toml", "--out", "new")
        assert words in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_numbers_that_are_none(here: Path, refused: Refused, value: float) -> None:
    weights = load_file(here / "base/model.safetensors")
    name = next(n for n in weights if n.endswith("intermediate.dense.weight"))
    weights[name][0, 3] = value
    save_file(weights, here / "base/model.safetensors", {"format": "pt"})
    message = refused("convert", "base", "--data", "train.csv", "--out", "new")
    assert f"{name} holds 1 of {weights[name].numel()} numbers that are NaN or infinite" in message


def test_texts_of_another_language_are_told_by_their_share() -> None:
    """By hand: of the words `the film was xyz ?` only xyz is spelled; of `фильм был` both words have no piece."""
    source = tokenizer().to_str().encode()
    assert foreign_words(source, ["the film was xyz ?"]) == pytest.approx(1 / 5)
    assert foreign_words(source, ["фильм был"]) == 1.0
    assert foreign_words(source, [("the film", "фильм был")]) == pytest.approx(2 / 4)
    assert foreign_words(source, [""]) == 0.0


def test_a_warning_names_the_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_checkpoint(tmp_path / "base", layers=1)
    (tmp_path / "ru.txt").write_text("".join(f"Фильм был длинный {i}\n" for i in range(60)), encoding="utf-8")
    flags = ["--texts", str(tmp_path / "ru.txt"), "--margin", "50", "--out", str(tmp_path / "b")]
    found, said = convert(capsys, str(base), *flags)
    assert "% of the words are unknown to the model's vocabulary" in found["warnings"][0]
    assert found["warnings"][0] in said
