"""A bundle in one file: the same answers as from its folder, without a file unpacked."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attar
from attar.cli import main
from attar.runtime.bench.client import module_for
from attar.runtime.bundle import Bundle
from attar.runtime.errors import BundleError, SettingsError
from attar.runtime.files import opened, pack
from attar.runtime.server.models import find_bundles
from tests.fixtures_bundle import GOLDEN, make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def packed(bundle: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """As a user makes it."""
    path = bundle.parent / "new" / "student.zip"
    assert main(["package", str(bundle), "--to", "zip", "--out", str(path)]) == 0
    seal = (bundle / "manifest.sha256").read_text().split()[0]
    assert f"manifest: sha256 {seal}" in capfd.readouterr().out
    return path


def test_it_answers_as_its_folder(bundle: Path, packed: Path) -> None:
    assert attar.load(packed)(list(GOLDEN)) == attar.load(bundle)(list(GOLDEN))
    assert Bundle.read(packed).files == Bundle.read(bundle).files == {p.name: p.read_bytes() for p in bundle.iterdir()}
    assert [path.name for path in packed.parent.iterdir()] == ["student.zip"]


def test_its_bytes_depend_on_those_of_the_files_alone(bundle: Path, packed: Path) -> None:
    first = packed.read_bytes()
    for path in bundle.iterdir():
        path.chmod(0o600)
        path.touch()
    assert main(["package", str(bundle), "--to", "zip", "--out", str(packed), "--json"]) == 0
    assert packed.read_bytes() == first
    assert main(["package", str(packed), "--to", "zip", "--out", str(packed)]) == 0
    assert packed.read_bytes() == first


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_that_another_program_made(method: int, bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w", method) as archive:
        for path in bundle.iterdir():
            archive.write(path, path.name)
    assert attar.load(tmp_path / "theirs.zip")("a good film").label == "positive"


def test_every_verb_reads_it(packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(packed)]) == 0
    assert main(["inspect", str(packed), "--json"]) == 0
    assert main(["predict", str(packed), "a good film"]) == 0
    checked, shown, answered = capfd.readouterr().out.splitlines()
    assert checked.startswith("OK: 4 files match")
    assert json.loads(shown)["size"] == sum(map(len, Bundle.read(packed).files.values()))
    assert json.loads(answered)["label"] == "positive"
    assert module_for(packed) == "attar.runtime.bench.worker"
    assert main(["package", str(packed), "--to", "kserve", "--out", str(tmp_path / "kserve")]) == 0
    assert Bundle.read(tmp_path / "kserve/tiny").files == Bundle.read(packed).files


def test_a_server_takes_zips_and_folders(bundle: Path, packed: Path) -> None:
    assert find_bundles(packed) == {None: packed}
    beside = make_tiny_bundle(packed.parent / "other")
    assert find_bundles(packed.parent) == {"other": beside, "student": packed}
    make_tiny_bundle(packed.parent / "student")
    with pytest.raises(BundleError, match="a folder and a zip of one name"):
        find_bundles(packed.parent)


NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,20}", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=200), min_size=1, max_size=8))
def test_whatever_goes_in_comes_out(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pack(files, Path(folder) / "b.zip")
        with opened(Path(folder) / "b.zip") as found:
            assert found.names() == set(files)
            for name, data in files.items():
                assert found.read(name, len(data)) == data
                assert found.read(name, max(0, len(data) - 5)) == data[: max(0, len(data) - 5) + 1]


def test_refusals(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cases = {
        ("--out", str(tmp_path / "student")): "the name of a zip ends in .zip",
        ("--out", str(tmp_path / "s.zip"), "--student", str(bundle)): "leave out --student",
        ("--out", str(bundle / "README.md" / "s.zip")): "s.zip cannot be written",
    }
    for arguments, words in cases.items():
        assert main(["package", str(bundle), "--to", "zip", *arguments]) == 2
        assert words in capfd.readouterr().err
    assert main(["package", str(tmp_path / "none"), "--to", "zip", "--out", str(tmp_path / "s.zip")]) == 2
    assert "no bundle at" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "nothing half-written stays"


def test_what_is_too_large_for_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.runtime.files.MAX_ZIP", 1 << 21)
    with pytest.raises(SettingsError, match="keep it as a folder"):
        pack({"weights-1.bin": bytes(1 << 21)}, tmp_path / "b.zip")
    assert not list(tmp_path.iterdir())
