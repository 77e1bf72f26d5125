"""A working folder for commands that must be refused, and the promise that they leave nothing half-written in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attar.cli import main
from tests.fixtures_bundle import make_tiny_bundle
from tests.pipeline.refusals import Refused, write_material


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ (a fine-tuned classifier), bundle/, train.csv and recipe.toml; every test has its own copy."""
    folder = tmp_path_factory.mktemp("bad")
    make_tiny_bundle(folder / "bundle")
    write_material(folder)
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
