"""A working folder for commands that must be refused, and the promise that they leave nothing half-written in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attar.cli import main
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_checkpoint, sentences
from tests.pipeline.refusals import RECIPE, Refused


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ (a fine-tuned classifier), bundle/, train.csv and recipe.toml; every test has its own copy."""
    folder = tmp_path_factory.mktemp("bad")
    make_checkpoint(folder / "base", layers=1, hidden=16, ffn=32, heads=2)
    make_tiny_bundle(folder / "bundle")
    found = sentences(200)
    rows = [f'"{text}",{label}' for text, label in zip(found.texts, found.labels or (), strict=True)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a fresh copy of the material, in which relative names work."""
    shutil.copytree(material, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused, checks what is left, and returns the message."""

    def check(*command: object) -> str:
        before = {p for p in here.rglob("*") if p.is_file()}
        assert main([str(part) for part in command]) == 2
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        lines = found.err.splitlines()
        errors = [line for line in lines if line.startswith("attar: error: ")]
        # Lines of progress may come before the message; nothing comes after it.
        assert errors == lines[-1:], found.err
        assert all(line.startswith(("[", "attar: ")) for line in lines), found.err
        after = set(here.rglob("*"))
        assert {p for p in after if p.is_file()} >= before
        assert not [p for p in after if p.suffix in {".part", ".old"}]
        assert not [p for p in here.glob("new/**/*") if p.name in {"student.json", "manifest.json", "stage.json"}]
        return errors[0].removeprefix("attar: error: ")

    return check
