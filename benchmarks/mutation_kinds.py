"""All kinds of damage: those of `benchmarks/damage.py`, and what is done to zips or with hashes that are right."""

from __future__ import annotations

import hashlib
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import onnx

from attar.runtime.bundle import MANIFEST, SEAL
from attar.runtime.files import pack
from benchmarks.damage import (
    BYTES,
    KINDS,
    UNREADABLE,
    Mutation,
    kind,
    manifest,
    reseal,
    some,
    some_content,
    with_strange_leaf,
)

__all__ = ["KINDS", "UNREADABLE", "Mutation"]

# --- rehashed: all hashes are right --------------------------------------------------------------------------------


def rehash(folder: Path, name: str, data: bytes) -> None:
    """Another content of a file, with a manifest and a seal that agree."""
    (folder / name).write_bytes(data)
    record = manifest(folder)
    record["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    reseal(folder, json.dumps(record).encode())


def _rehashed_bytes(how: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random], None]:
    def damage(folder: Path, rng: Random) -> None:
        path = some_content(folder, rng)
        rehash(folder, path.name, how(path.read_bytes(), rng))

    return damage


for _name, _how in BYTES.items():
    kind("rehashed", f"{_name}, rehashed")(_rehashed_bytes(_how))


@kind("rehashed", "a strange value in the manifest")
def strange_manifest(folder: Path, rng: Random) -> None:
    reseal(folder, json.dumps(with_strange_leaf(manifest(folder), rng)).encode())


@kind("rehashed", "a strange value in tokenizer.json")
def strange_tokenizer(folder: Path, rng: Random) -> None:
    record = json.loads((folder / "tokenizer.json").read_text())
    rehash(folder, "tokenizer.json", json.dumps(with_strange_leaf(record, rng)).encode())


@kind("rehashed", "a strange value in golden.json")
def strange_golden(folder: Path, rng: Random) -> None:
    record = json.loads((folder / "golden.json").read_text())
    rehash(folder, "golden.json", json.dumps(with_strange_leaf(record, rng)).encode())


@kind("rehashed", "two contents swapped")
def contents_swapped(folder: Path, rng: Random) -> None:
    one, other = rng.sample(sorted(p.name for p in folder.iterdir() if p.name not in (MANIFEST, SEAL)), 2)
    first, second = (folder / one).read_bytes(), (folder / other).read_bytes()
    rehash(folder, one, second)
    rehash(folder, other, first)


@kind("rehashed", "a graph with something else in it")
def graph(folder: Path, rng: Random) -> None:
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    node, tensor = rng.choice(model.graph.node), rng.choice(model.graph.initializer)
    how = rng.randrange(8)
    if how == 0:
        model.graph.node.remove(node)
    elif how == 1:
        node.op_type = rng.choice(("Loop", "Erf", "MatMul", "Concat", "NoSuch", "Reshape", "Identity", "Expand"))
    elif how == 2 and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(("nothing", "", model.graph.node[-1].output[0]))
    elif how == 3:
        tensor.dims[:] = [rng.choice((0, -1, 1, 7, 10**6, 2**40, 2**62)) for _ in range(rng.randrange(5))]
    elif how == 4:
        tensor.data_type = rng.randrange(25)
    elif how == 5:
        model.graph.output[0].name = rng.choice(("other", model.graph.input[0].name, node.name))
    elif how == 6:
        tensor.raw_data = rng.choice((b"", tensor.raw_data[:-1], bytes(len(tensor.raw_data))))
    else:
        model.opset_import[0].version = rng.choice((0, 1, -1, 12, 99, 2**40))
    data = model.SerializeToString()
    rehash(folder, "model.onnx", data if data != (folder / "model.onnx").read_bytes() else data[:-1])


# --- zipped --------------------------------------------------------------------------------------------------------


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    pack({p.name: p.read_bytes() for p in folder.iterdir()}, path)
    return path


def _zipped_bytes(how: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random], Path]:
    def damage(folder: Path, rng: Random) -> Path:
        path = zipped(folder)
        path.write_bytes(how(path.read_bytes(), rng))
        return path

    return damage


for _name, _how in BYTES.items():
    kind("zipped", f"{_name}, in a zip")(_zipped_bytes(_how))


@kind("zipped", "the zip's own records changed")
def records(folder: Path, rng: Random) -> Path:
    """Where weights would take nearly all of random changes, these hit headers and the table of files."""
    path = zipped(folder)
    data = bytearray(path.read_bytes())
    start = struct.unpack("<L", data[-6:-2])[0]
    for _ in range(rng.choice((1, 1, 2, 5))):
        data[rng.randrange(start, len(data))] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))
    path.write_bytes(bytes(data) if bytes(data) != path.read_bytes() else bytes(data[:-1]))
    return path


@kind("zipped", "a damaged file in a sound zip")
def inside(folder: Path, rng: Random) -> Path:
    path = some(folder, rng)
    path.write_bytes(rng.choice(list(BYTES.values()))(path.read_bytes(), rng))
    return zipped(folder)


@kind("zipped", "something added to a zip")
def added_to_zip(folder: Path, rng: Random) -> Path:
    path = zipped(folder)
    names = (
        "../away",
        "/away",
        "a/",
        "a/model.onnx",
        "..\\away",
        ".hidden",
        "model.onnx",
        "MODEL.ONNX",
        "model.onnx\x00x",
    )
    entry = zipfile.ZipInfo("x")
    entry.filename = rng.choice(names)
    entry.external_attr = rng.choice((0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO)) << 16
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    path_data = rng.choice((b"", b"x", bytes(1 << 20)))
    with zipfile.ZipFile(path, "a") as archive:
        if entry.filename == "model.onnx":  # twice: zipfile would warn
            archive.NameToInfo.pop("model.onnx")
        archive.writestr(entry, path_data, how)
    return path
