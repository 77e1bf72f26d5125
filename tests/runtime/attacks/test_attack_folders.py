"""Folders that are no bundles, and manifests that lie with a hash that is right: refused before any parser."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

import attar
from attar.runtime import bundle as module
from attar.runtime import tokenizer
from attar.runtime.bundle import MANIFEST
from attar.runtime.errors import BundleError
from tests.fixtures_bundle import make_tiny_bundle
from tests.runtime.attacks.hostile import files_of, sealed


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return make_tiny_bundle(tmp_path / "bundle")


@pytest.fixture
def no_parsers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the bundle is made, no parser of models may be reached."""
    monkeypatch.setattr(tokenizer, "Backend", None)
    monkeypatch.setattr(ort, "InferenceSession", None)


def refused(path: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        attar.load(path)


@pytest.mark.usefixtures("no_parsers")
def test_what_is_no_plain_file(bundle: Path, tmp_path: Path) -> None:
    place = bundle / "model.onnx"
    data = place.read_bytes()
    place.unlink()
    place.mkdir()
    refused(bundle, r"model\.onnx is not a plain file")
    place.rmdir()
    os.mkfifo(place)  # reading it would wait for a writer for ever
    refused(bundle, r"model\.onnx is not a plain file")
    place.unlink()
    for target in ("/dev/zero", "model.onnx", "nothing"):
        place.symlink_to(target)
        refused(bundle, r"model\.onnx is a symbolic link")
        place.unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    place.symlink_to("../elsewhere")
    refused(bundle, r"model\.onnx is a symbolic link")


@pytest.mark.usefixtures("no_parsers")
@pytest.mark.parametrize("name", ["model.onnx", "README.md", MANIFEST, "manifest.sha256"])
def test_a_sparse_file_of_a_terabyte(name: str, bundle: Path) -> None:
    os.truncate(bundle / name, 1 << 40)
    refused(bundle, "was altered")


@pytest.mark.usefixtures("no_parsers")
@pytest.mark.parametrize("name", [".hidden", "MODEL.onnx", "weights-1.bin", "model.onnx.bak", "\udcff"])
def test_something_beside_the_files(name: str, bundle: Path) -> None:
    (bundle / name).write_bytes(b"x")
    refused(bundle, r"is not listed in manifest\.json: remove it")


@pytest.fixture
def public() -> Iterator[Path]:
    """A bundle where every user comes."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield make_tiny_bundle(Path(folder) / "bundle")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="users are POSIX's")
def test_what_may_not_be_read(public: Path) -> None:
    """Root may read all, and is somebody else meanwhile."""
    root = os.geteuid() == 0
    for path in (public / "model.onnx", public / MANIFEST, public):
        mode = path.stat().st_mode
        path.chmod(0)
        if root:
            os.seteuid(65534)
        try:
            refused(public, "cannot be read: Permission denied")
        finally:
            if root:
                os.seteuid(0)
            path.chmod(mode)


def manifest_of(bundle: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((bundle / MANIFEST).read_text())
    return record


def reseal(bundle: Path, raw: bytes) -> None:
    for name, data in sealed(raw).items():
        (bundle / name).write_bytes(data)


DEEP = 100_000
TEXTS: dict[str, tuple[bytes, str]] = {
    "lists in lists": (b"[" * DEEP + b"]" * DEEP, "is not valid JSON"),
    "objects in objects": (b'{"schema":' * DEEP + b"1" + b"}" * DEEP, "is not valid JSON"),
    "a number of 5000 digits": (b'{"schema": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    "a key twice": (b'{"schema": 2, "schema": 1}', "a key is there twice among schema"),
    "a key twice, written otherwise": (b'{"schema": 2, "s\\u0063hema": 1}', "a key is there twice among schema"),
    "no number": (b'{"schema": NaN}', "NaN is no number of JSON"),
    "an infinite number": (b'{"schema": -Infinity}', "-Infinity is no number"),
    "no UTF-8": (b'{"schema": "\xff\xff"}', "is not valid JSON"),
    "a list": (b"[1]", "is not a manifest"),
    "a huge number": (b'{"schema": 1e999}', "schema inf"),
    "more than a manifest": (b" " * (16 << 20) + b'{"schema": 1}', "was altered"),
}  # fmt: skip


@pytest.mark.usefixtures("no_parsers")
@pytest.mark.parametrize("name", TEXTS)
def test_a_manifest_that_is_no_manifest(name: str, bundle: Path) -> None:
    raw, words = TEXTS[name]
    reseal(bundle, raw)
    refused(bundle, words)


FIELDS: list[tuple[str, Any]] = [
    ("schema", True), ("schema", 1.0),
    ("files/model.onnx/size", -1), ("files/model.onnx/size", 1e3), ("files/model.onnx/size", True),
    ("files/model.onnx/size", "496"), ("files/model.onnx/size", 2**31 + 1), ("files/model.onnx/size", 10**30),
    ("files/model.onnx/sha256", 7), ("files/model.onnx/sha256", "0" * 63), ("files/model.onnx", []), ("files", []),
    ("limits", [16, 32]), ("limits/max_length", 0), ("limits/max_length", 10**30), ("limits/max_batch", "32"),
    ("limits/max_batch", None), ("limits/max_batch", True), ("pad_id", "0"), ("pad_id", -1), ("pad_id", 2**40),
    ("scheme", None), ("lineage", {}), ("lineage", [1]), ("gate", "pass"), ("requires", []), ("name", ["x"]),
    ("attar", 1),
    ("task", "text-classification"), ("task/kind", []), ("task/labels", "ab"), ("task/labels", [["x"], ["y"]]),
    ("task/labels", ["x", "x"]), ("task/max_length", "16"), ("task/max_length", 16.0), ("task/max_length", 10**18),
    ("task/temperature", "1"), ("task/temperature", 1e300), ("task/pair", 0), ("task/new", 1),
]  # fmt: skip


@pytest.mark.usefixtures("no_parsers")
@pytest.mark.parametrize(("field", "value"), FIELDS)
def test_a_field_that_cannot_be(field: str, value: Any, bundle: Path) -> None:
    record = manifest_of(bundle)
    *way, last = field.split("/")
    at = record
    for part in way:
        at = at[part]
    at[last] = value
    reseal(bundle, json.dumps(record).encode())
    refused(bundle, r"manifest\.json|export the bundle|upgrade attar")


@pytest.mark.usefixtures("no_parsers")
@pytest.mark.parametrize("name", ["model.onnx\x00", "\x00", "\ud800", "a\nb", "C:\\x", "x:y", "~", "%2e", "x" * 5000])
def test_a_name_that_is_none_on_some_system(name: str, bundle: Path) -> None:
    record = manifest_of(bundle)
    record["files"][name] = record["files"].pop("README.md")
    reseal(bundle, json.dumps(record).encode())
    refused(bundle, "names a file outside its folder")


def test_a_label_that_is_no_text(bundle: Path) -> None:
    record = manifest_of(bundle)
    record["task"]["labels"] = [1, 2]
    reseal(bundle, json.dumps(record).encode())
    refused(bundle, "labels")


def test_the_bytes_that_were_hashed_are_the_bytes_that_are_parsed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file is replaced as soon as its hash has been taken, and the model is the one that was hashed."""
    files, swapped = files_of(bundle), []

    def hash_then_swap(data: bytes) -> Any:
        for name, content in files.items():
            if content == data:
                (bundle / name).write_bytes(b"another")
                swapped.append(name)
        return hashlib.sha256(data)

    monkeypatch.setattr(module, "hashlib", type("Hashes", (), {"sha256": staticmethod(hash_then_swap)}))
    model = attar.load(bundle)
    assert sorted(swapped) == sorted(set(files) - {"manifest.sha256"})
    assert model("a good film").label == "positive"


READ_ONLY = """
import os, sys
import attar

attar.load(sys.argv[1], threads=1)
if os.geteuid() == 0:
    os.seteuid(65534)
print(attar.load(sys.argv[1], threads=1)("a good film").label)
try:
    open(os.path.join(sys.argv[1], "x"), "w")
except OSError:
    print("read-only")
"""


def test_a_folder_that_nobody_may_write(public: Path) -> None:
    """By permissions, which bind root too once it is another user."""
    for path in (*public.iterdir(), public):
        path.chmod(0o555 if path == public else 0o444)
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", READ_ONLY, str(public)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    public.chmod(0o755)
    assert done.stdout == "positive\nread-only\n", done.stderr
