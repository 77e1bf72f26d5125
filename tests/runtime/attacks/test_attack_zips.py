"""Zips that are no bundles: paths out of it, links, bombs, and records that lie. Nothing is unpacked, ever."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import attar
from attar.runtime.bundle import Bundle
from attar.runtime.errors import BundleError
from attar.runtime.files import MAX_FILES
from tests.fixtures_bundle import make_tiny_bundle
from tests.runtime.attacks.hostile import files_of, rehashed, zip_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sound bundle."""
    return files_of(make_tiny_bundle(tmp_path_factory.mktemp("sound") / "bundle"))


@pytest.fixture(autouse=True)
def nothing_is_unpacked(tmp_path: Path) -> object:
    """Whatever the zip, no file appears beside it, nor one level up."""
    yield
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["b.zip"])
    assert not (tmp_path.parent / "away").exists()


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    found = zipfile.ZipInfo("x")
    found.filename, found.external_attr = name, mode << 16
    return found


@pytest.mark.parametrize(
    "name",
    ["../away", "/away", "a/../../away", "..\\away", "C:\\away", "folder/model.onnx", "folder/", "model.onnx\x00.txt",
     ".",
     "naïve.bin", "\u202egpj.exe", "x" * 300, " ", ".hidden"],
)  # fmt: skip
def test_names_that_are_none(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = zip_of(files, tmp_path / "b.zip", (entry(name), b"x"))
    with pytest.raises(
        BundleError, match=r"b\.zip cannot be read as a zip of a bundle's files: it holds .* under plain"
    ):
        attar.load(path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO, stat.S_IFBLK])
def test_links_and_special_files(mode: int, files: dict[str, bytes], tmp_path: Path) -> None:
    path = zip_of(files, tmp_path / "b.zip", (entry("link", mode), b"/etc/hostname"))
    with pytest.raises(BundleError, match="link is a link or another special file"):
        attar.load(path)


def test_a_link_in_place_of_a_file(files: dict[str, bytes], tmp_path: Path) -> None:
    others = {name: data for name, data in files.items() if name != "README.md"}
    path = zip_of(others, tmp_path / "b.zip", (entry("README.md", stat.S_IFLNK | 0o777), files["README.md"]))
    with pytest.raises(BundleError, match=r"README\.md is a link"):
        attar.load(path)


def test_two_files_of_one_name(files: dict[str, bytes], tmp_path: Path) -> None:
    """Readers disagree about which of the two counts."""
    path = zip_of(files, tmp_path / "b.zip", (entry("model.onnx"), b"another"))
    with pytest.raises(BundleError, match="two files of one name"):
        attar.load(path)


def test_a_file_that_the_manifest_does_not_list(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"more\.bin is not listed in manifest\.json"):
        attar.load(zip_of({**files, "more.bin": b"x"}, tmp_path / "b.zip"))


def bomb(target: Path, files: dict[str, bytes], size: int) -> Path:
    """A zip with a file of zeros, a thousandth of its size."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        with archive.open("weights-1.bin", "w", force_zip64=False) as file:
            for _ in range(size >> 20):
                file.write(bytes(1 << 20))
    return target


def test_a_bomb(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by what it announces, before any of it is inflated."""
    path = bomb(tmp_path / "b.zip", files, 64 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(BundleError, match="more than 100 times as large unpacked"):
        attar.load(path)


def test_a_bomb_that_announces_little(files: dict[str, bytes], tmp_path: Path) -> None:
    """Its table says 100 bytes; no more are taken from it, whatever the stream goes on to give."""
    path = bomb(tmp_path / "b.zip", rehashed(files, weights_bin=bytes(100)), 0)
    data = bytearray(bomb(tmp_path / "b.zip", files, 64 << 20).read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the last file of the table; its size is 24 bytes in
    struct.pack_into("<L", data, at + 24, 100)
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"weights-1\.bin is not listed"):
        attar.load(path)


def test_a_table_that_says_less_than_there_is(files: dict[str, bytes], tmp_path: Path) -> None:
    path = zip_of(files, tmp_path / "b.zip")
    data = bytearray(path.read_bytes())
    at = data.index(b"model.onnx", data.index(b"PK\x01\x02")) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    struct.pack_into("<L", data, at + 24, 10)
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"model\.onnx"):
        attar.load(path)


def test_too_many_files(files: dict[str, bytes], tmp_path: Path) -> None:
    more = {f"f{i}": b"" for i in range(MAX_FILES)}
    with pytest.raises(BundleError, match=f"it holds {MAX_FILES + 6} files"):
        attar.load(zip_of(files | more, tmp_path / "b.zip"))


def changed(data: bytes, at: int, format_: str, value: int) -> bytes:
    """Another number at a place, counted from the end where it is negative."""
    found = bytearray(data)
    struct.pack_into(format_, found, at % len(data), value)
    return bytes(found)


LAST = 22
LIES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda d: b"",
    "no zip": lambda d: b"not a zip at all" * 100,
    "cut": lambda d: d[:-1],
    "followed by more": lambda d: d + b"x",
    "behind something else": lambda d: b"#!/bin/sh\nexit\n" + d,
    "a comment": lambda d: changed(d, -2, "<H", 5) + b"hello",
    "a comment that hides a second end": lambda d: changed(d, -2, "<H", LAST) + d[-LAST:],
    "another disk": lambda d: changed(d, 4 - LAST, "<H", 1),
    "more files than there are": lambda d: changed(changed(d, 8 - LAST, "<H", 9), 10 - LAST, "<H", 9)[: -LAST - 1],
    "as many files as the 64-bit form has": lambda d: changed(
        changed(d, 8 - LAST, "<H", 65535), 10 - LAST, "<H", 65535
    ),
    "a table elsewhere": lambda d: changed(d, 16 - LAST, "<L", 0),
    "a table of 4 GiB": lambda d: changed(d, 12 - LAST, "<L", 0xFFFFFFFF),
    "a 64-bit end before the end": lambda d: d[: -LAST - 20] + b"PK\x06\x07" + bytes(16) + d[-LAST:],
}


@pytest.mark.parametrize("name", LIES)
def test_records_that_lie(name: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = zip_of(files, tmp_path / "b.zip")
    path.write_bytes(LIES[name](path.read_bytes()))
    with pytest.raises(BundleError, match=r"b\.zip cannot be read as a zip of a bundle's files: .*--to zip"):
        attar.load(path)


@pytest.mark.parametrize(("place", "value", "words"), [(8, 1, "encrypted"), (10, 12, "neither stored nor deflated")])
def test_encrypted_and_otherwise_compressed(
    place: int, value: int, words: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = zip_of(files, tmp_path / "b.zip")
    data = path.read_bytes()
    path.write_bytes(changed(data, data.index(b"PK\x01\x02") + place, "<H", value))
    with pytest.raises(BundleError, match=words):
        attar.load(path)


def test_what_the_manifest_lists_is_what_is_read(files: dict[str, bytes], tmp_path: Path) -> None:
    """Local headers that name other files than the table does."""
    path = zip_of(files, tmp_path / "b.zip")
    data = path.read_bytes()
    at = next(
        i for i in range(len(data)) if data[i : i + 4] == b"PK\x03\x04" and data[i + 30 : i + 40] == b"model.onnx"
    )
    path.write_bytes(data[: at + 30] + b"MODEL" + data[at + 35 :])
    with pytest.raises(BundleError, match=r"model\.onnx"):
        attar.load(path)


def test_a_sparse_file_of_a_terabyte(tmp_path: Path) -> None:
    with open(tmp_path / "b.zip", "wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(BundleError, match="it has 1099511627776 bytes"):
        Bundle.read(tmp_path / "b.zip")
