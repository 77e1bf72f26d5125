"""Damage to bundles, as `benchmarks/mutations.py` does it, in four classes; the last two are in mutation_kinds.py.

sealed    files are damaged and the hashes are as they were: what disks, networks and careless hands do
resealed  the manifest is none, or is wrong about the files, and its own hash is right: what a buggy writer does
rehashed  files or fields are changed and all hashes are right: what only someone can do who means to
zipped    the bundle is a zip, and that is damaged; such damage may leave every file in it as it was
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from attar.runtime.bundle import MANIFEST, SEAL

STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 10**30, 1.5, -0.5, 1e308, "", "x", "\x00", "\ud800", "NaN", [], [None],
    [[1]], ["x"], {}, {"x": 1}, {"kind": "x"},
)  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """Damage of a class; it changes a folder, and may return the path of what to load instead of it."""

    of: str
    damage: Callable[[Path, Random], Path | None]


KINDS: dict[str, Mutation] = {}
UNREADABLE = frozenset({"a file without permissions"})
"""What root could read: these are loaded as another user."""


def kind(of: str, name: str) -> Callable[[Callable[[Path, Random], Path | None]], None]:
    """Puts a function into the table."""

    def put(damage: Callable[[Path, Random], Path | None]) -> None:
        KINDS[name] = Mutation(of, damage)

    return put


def some(folder: Path, rng: Random) -> Path:
    """One of the files."""
    return rng.choice(sorted(folder.iterdir()))


def some_content(folder: Path, rng: Random) -> Path:
    """One of the files that the manifest lists, the large ones not more often than others."""
    return rng.choice(sorted(p for p in folder.iterdir() if p.name not in (MANIFEST, SEAL)))


def with_strange_leaf(record: Any, rng: Random) -> Any:
    """JSON with something else somewhere in it: every level and every branch of a level is as likely."""
    if isinstance(record, dict | list) and record and rng.random() < 0.9:
        keys = list(record) if isinstance(record, dict) else list(range(len(record)))
        key = rng.choice(keys)
        copy = dict(record) if isinstance(record, dict) else list(record)
        if rng.random() < 0.05:
            del copy[key]
        else:
            copy[key] = with_strange_leaf(copy[key], rng)
        return copy
    return rng.choice([value for value in STRANGE if value != record])


# --- bytes ---------------------------------------------------------------------------------------------------------


def flipped(data: bytes, rng: Random) -> bytes:
    """One bit the other way, or a few."""
    changed = bytearray(data)
    for place in {rng.randrange(len(changed)) for _ in range(rng.choice((1, 1, 1, 2, 8)))}:
        changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def replaced(data: bytes, rng: Random) -> bytes:
    """A run of other bytes: zeros, ones or noise."""
    start, length = rng.randrange(len(data)), rng.randrange(1, 64)
    end = min(len(data), start + length)
    for run in (bytes(end - start), b"\xff" * (end - start), rng.randbytes(end - start)):
        if run != data[start:end] and (rng.random() < 0.5 or run[-1:] != b"\xff"):
            return data[:start] + run + data[end:]
    return flipped(data, rng)


def truncated(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extended(data: bytes, rng: Random) -> bytes:
    return data + rng.choice((b"\x00", b"\n", data, rng.randbytes(rng.randrange(1, 2000))))


def cut(data: bytes, rng: Random) -> bytes:
    """Without a run of bytes in the middle, or with one of them twice."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 64))
    return data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:]


BYTES = {"bits flipped": flipped, "bytes replaced": replaced, "truncated": truncated, "extended": extended,
         "a run of bytes lost or doubled": cut}  # fmt: skip


# --- sealed: the hashes are as they were ---------------------------------------------------------------------------


def _sealed_bytes(how: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random], None]:
    def damage(folder: Path, rng: Random) -> None:
        path = some(folder, rng)
        path.write_bytes(how(path.read_bytes(), rng))

    return damage


for _name, _how in BYTES.items():
    kind("sealed", _name)(_sealed_bytes(_how))


@kind("sealed", "two files swapped")
def swapped(folder: Path, rng: Random) -> None:
    one, other = rng.sample(sorted(folder.iterdir()), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@kind("sealed", "a file lost")
def lost(folder: Path, rng: Random) -> None:
    some(folder, rng).unlink()


@kind("sealed", "a file renamed")
def renamed(folder: Path, rng: Random) -> None:
    path = some(folder, rng)
    names = (path.name + rng.choice((".bak", "~", " ", ".", "\n")), "x" + path.name, path.name.upper(), "\udcff")
    path.rename(folder / rng.choice(names))


@kind("sealed", "something added")
def added(folder: Path, rng: Random) -> None:
    target = folder / rng.choice((".hidden", "model.onnx.data", "MODEL.ONNX", "weights-1.bin", "a b", "config.json"))
    if rng.random() < 0.2:
        target.mkdir()
    elif rng.random() < 0.2:
        target.symlink_to(rng.choice(("/etc/passwd", ".", "..", "nothing")))
    else:
        target.write_bytes(rng.randbytes(rng.randrange(100)))


@kind("sealed", "a link in place of a file")
def linked(folder: Path, rng: Random) -> None:
    path = some(folder, rng)
    away = folder.parent / "away"
    path.rename(away)
    path.symlink_to(rng.choice((away, Path("../away"), Path("nothing"), Path(path.name), Path("/dev/zero"))))


@kind("sealed", "a folder in place of a file")
def foldered(folder: Path, rng: Random) -> None:
    path = some(folder, rng)
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(data)


@kind("sealed", "a pipe in place of a file")
def piped(folder: Path, rng: Random) -> None:
    path = some(folder, rng)
    path.unlink()
    os.mkfifo(path)


@kind("sealed", "a file without permissions")
def unreadable(folder: Path, rng: Random) -> None:
    path = rng.choice((folder, some(folder, rng)))
    path.chmod(0)


@kind("sealed", "a sparse file of up to 1 TiB")
def sparse(folder: Path, rng: Random) -> None:
    os.truncate(some(folder, rng), 1 << rng.randrange(31, 40))


@kind("sealed", "the manifest edited")
def edited(folder: Path, rng: Random) -> None:
    raw = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(json.dumps(with_strange_leaf(json.loads(raw), rng)).encode())


# --- resealed: a manifest that is none, or is wrong about the files ------------------------------------------------


def reseal(folder: Path, raw: bytes) -> None:
    """Writes a manifest whose own hash is right."""
    (folder / MANIFEST).write_bytes(raw)
    (folder / SEAL).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")


def manifest(folder: Path) -> Any:
    return json.loads((folder / MANIFEST).read_text())


@kind("resealed", "a field missing")
def missing(folder: Path, rng: Random) -> None:
    record = manifest(folder)
    whole = rng.choice((record, record["limits"], record["task"], rng.choice(list(record["files"].values()))))
    optional = ("multi_label", "pair", "thresholds", "temperature")
    whole.pop(rng.choice(sorted(key for key in whole if key not in optional)))
    reseal(folder, json.dumps(record).encode())


@kind("resealed", "a field of another type")
def typed(folder: Path, rng: Random) -> None:
    record = manifest(folder)
    whole = rng.choice((record, record["limits"], record["task"], rng.choice(list(record["files"].values()))))
    key = rng.choice(sorted(set(whole) - {"gate"}))
    numbers = (int, float)
    others = [v for v in STRANGE if type(v) is not type(whole[key]) and (type(v) not in numbers or v != whole[key])]
    whole[key] = rng.choice(others)
    reseal(folder, json.dumps(record).encode())


@kind("resealed", "a number beyond all limits")
def enormous(folder: Path, rng: Random) -> None:
    record = manifest(folder)
    places = [(record["limits"], "max_length"), (record["limits"], "max_batch"), (record["task"], "max_length"),
              (record, "schema"), *((entry, "size") for entry in record["files"].values())]  # fmt: skip
    whole, key = rng.choice(places)
    whole[key] = rng.choice((-1, 2**31 + 1, 2**63, 10**30, -(10**30), 1e300))
    reseal(folder, json.dumps(record).encode())


@kind("resealed", "what is no JSON")
def no_json(folder: Path, rng: Random) -> None:
    raw = (folder / MANIFEST).read_bytes()
    places = [raw.replace(b'"schema": 1', b'"schema": ' + v, 1) for v in (b"NaN", b"-Infinity", b'1, "schema": 1')]
    deep = rng.choice((1000, 100_000, 1_000_000))
    places += [raw.replace(b'"pad_id"', b'"x": ' + b"[" * deep + b"]" * deep + b', "pad_id"', 1)]
    places += [raw.replace(b'"pad_id"', b'"x": ' + b'{"a":' * deep + b"1" + b"}" * deep + b', "pad_id"', 1)]
    places += [raw[: len(raw) // 2], b"", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", raw + raw, b" " * (17 << 20) + raw]
    places += [b"9" * 5000, b"{" * 5000, raw.replace(b'"pad_id": 0', b'"pad_id": ' + b"9" * 5000, 1)]
    reseal(folder, rng.choice([p for p in places if p != raw]))


@kind("resealed", "a name that leaves the folder")
def escaping(folder: Path, rng: Random) -> None:
    record = manifest(folder)
    names = ("../away", "/etc/x", "a/b", "..", ".", "", "..\\away", "C:\\x", "./model.onnx", "model.onnx\x00", "\x00",
             "\ud800", "x" * 5000, "model.onnx:stream", "file:///x", "~", "-", "%2e%2e", "\u202egpj")  # fmt: skip
    (folder.parent / "away").write_bytes(b"secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "size": 6}
    if rng.random() < 0.5:
        entry = record["files"].pop(rng.choice(sorted(record["files"])))
    record["files"][rng.choice(names)] = entry
    reseal(folder, json.dumps(record).encode())


@kind("resealed", "a wrong hash, size or list of files")
def lying(folder: Path, rng: Random) -> None:
    record = manifest(folder)
    name = rng.choice(sorted(record["files"]))
    entry, how = record["files"][name], rng.randrange(5)
    if how == 0:
        entry["sha256"] = hashlib.sha256(rng.randbytes(8)).hexdigest()
    elif how == 1:
        entry["size"] += rng.choice((-1, 1, 10**6))
    elif how == 2:
        record["files"].pop(name)
    elif how == 3:
        record["files"]["another.bin"] = entry
    else:
        record["files"][name] = record["files"][rng.choice(sorted(set(record["files"]) - {name}))]
    reseal(folder, json.dumps(record).encode())
