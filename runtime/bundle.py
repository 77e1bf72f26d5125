"""The bundle: a folder, or a zip of it, that proves itself. Every file is hashed and checked before any parser sees it.

manifest.json     schema version, sha256 and size of every other file, task, limits, lineage, gate certificate
manifest.sha256   the hash of manifest.json itself, so that one flipped byte anywhere is found
model.onnx  tokenizer.json  golden.json  README.md (the model card)

The bytes that were hashed are the bytes that are parsed: no file is opened a second time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from attar.runtime.errors import AttarError, BundleError
from attar.runtime.files import REMEDY, Files, opened
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import Task

SCHEMA = 1
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
NEEDED = frozenset({"model.onnx", "tokenizer.json", "golden.json"})
MAX_FILE = 2 << 30
MAX_MANIFEST = 16 << 20
"""Bytes."""
MAX_COUNT = 1 << 20
"""Tokens that a text is cut to, and texts in a batch."""


@dataclass(frozen=True)
class Manifest:
    """What the bundle says of itself. Sizes in bytes; `limits` holds `max_length` (tokens) and `max_batch` (texts)."""

    task: Task
    files: Mapping[str, Mapping[str, Any]]
    limits: Mapping[str, int]
    pad_id: int = 0
    scheme: str = "fp32"
    lineage: tuple[Mapping[str, Any], ...] = ()
    gate: Mapping[str, Any] | None = None
    requires: Mapping[str, Any] = field(default_factory=dict)
    name: str = "student"
    attar: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "name": self.name,
            "attar": self.attar,
            "task": self.task.to_json(),
            "scheme": self.scheme,
            "limits": dict(self.limits),
            "pad_id": self.pad_id,
            "requires": dict(self.requires),
            "files": {k: dict(v) for k, v in sorted(self.files.items())},
            "gate": None if self.gate is None else dict(self.gate),
            "lineage": [dict(step) for step in self.lineage],
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Manifest:
        if not isinstance(record, dict) or "schema" not in record:
            raise BundleError(f"{MANIFEST} is not a manifest. Export the bundle again")
        if type(record["schema"]) is not int or record["schema"] != SCHEMA:
            raise BundleError(
                f"the bundle has schema {record.get('schema')!r}, this attar reads {SCHEMA}: "
                "upgrade attar, or export it again"
            )
        try:
            return Manifest._parse(record)
        except (AttributeError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise BundleError(f"{MANIFEST} is not a manifest: {error!r}. Export the bundle again") from error

    @staticmethod
    def _parse(record: Mapping[str, Any]) -> Manifest:
        for key, kinds in _TYPES.items():
            if type(record[key]) not in kinds:
                raise ValueError(f"{key} cannot be a {type(record[key]).__name__}")
        if not all(isinstance(step, dict) for step in record["lineage"]):
            raise ValueError("lineage is not a list of steps")
        limits = record["limits"]
        counts = [limits["max_length"], limits["max_batch"], record["task"]["max_length"]]
        if (
            not all(type(count) is int and 1 <= count <= MAX_COUNT for count in counts)
            or not 0 <= record["pad_id"] < 1 << 31
        ):
            raise ValueError("max_length, max_batch or pad_id is negative or too large")
        return Manifest(
            task=_task(record["task"]),
            files={name: _entry(name, entry) for name, entry in record["files"].items()},
            limits=limits,
            pad_id=record["pad_id"],
            scheme=record["scheme"],
            lineage=tuple(record["lineage"]),
            gate=record["gate"],
            requires=record["requires"],
            name=record["name"],
            attar=record["attar"],
        )


_TYPES: Mapping[str, tuple[type, ...]] = {
    "task": (dict,), "files": (dict,), "limits": (dict,), "pad_id": (int,), "scheme": (str,), "lineage": (list,),
    "gate": (dict, type(None)), "requires": (dict,), "name": (str,), "attar": (str,),
}  # fmt: skip


def _task(record: Mapping[str, Any]) -> Task:
    """The task, which has to say of itself what the record says: nothing is converted or left out on the way."""
    try:
        task = task_of(record)
    except BundleError:
        raise
    except AttarError as error:
        raise BundleError(f"{MANIFEST}: the task cannot be: {error}. {REMEDY}") from error
    if not _says(json.loads(json.dumps(task.to_json())), record):
        raise BundleError(f"{MANIFEST}: this attar has no {task.kind} as described: upgrade it, or export again")
    return task


def _says(whole: Any, part: Any) -> bool:
    """Whether all of a JSON value is found in another, which may have more keys."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and _says(whole[key], value) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list) and len(part) == len(whole):
        return all(map(_says, whole, part))
    return isinstance(part, bool) == isinstance(whole, bool) and bool(part == whole)


def _entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Hash and size of a file."""
    sha, size = entry["sha256"], entry["size"]
    if not isinstance(sha, str) or not re.fullmatch("[0-9a-f]{64}", sha):
        raise ValueError(f"the sha256 of {name} is none")
    if type(size) is not int or not 0 <= size <= MAX_FILE:
        raise ValueError(f"the size of {name} is no number of bytes up to {MAX_FILE}")
    return {"sha256": sha, "size": size}


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: the manifest, and the bytes of every file as they were hashed; `proof`: those of the manifest
    and its seal."""

    path: Path
    manifest: Manifest
    contents: Mapping[str, bytes]
    proof: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> Mapping[str, bytes]:
        """Everything that a copy needs."""
        return {**self.contents, **self.proof}

    @property
    def size(self) -> int:
        """Bytes of all files, the manifest and its seal included."""
        return sum(map(len, self.files.values()))

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Bundle:
        """Reads and checks every file; `BundleError` names the first one that is missing, altered or out of place."""
        root = Path(path)
        with opened(root) as files:
            raw = files.read(MANIFEST, MAX_MANIFEST)
            seal = files.read(SEAL, 1000)
            if len(raw) > MAX_MANIFEST or seal != _seal(raw):
                raise BundleError(f"{root / MANIFEST} was altered: it does not match {SEAL}. {REMEDY}")
            manifest = Manifest.from_json(_json(root, raw))
            missing = sorted(NEEDED - manifest.files.keys())
            if missing:
                raise BundleError(f"the bundle at {root} lists no {missing[0]}; export it again")
            contents = {name: _verified(root, files, name, entry) for name, entry in manifest.files.items()}
            stray = sorted(files.names() - {*contents, MANIFEST, SEAL})
        if stray:
            raise BundleError(f"{root / stray[0]} is not listed in {MANIFEST}: remove it, or copy the bundle again")
        return Bundle(root, manifest, contents, {MANIFEST: raw, SEAL: seal})


def _json(root: Path, raw: bytes) -> Any:
    """The manifest, by the strict reading of JSON: no key twice, no NaN; what is nested too deeply is refused too."""
    try:
        return json.loads(raw, object_pairs_hook=_once, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{root / MANIFEST} is not valid JSON: {error}. {REMEDY}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key is there twice among {', '.join(sorted(found))[:200]}")
    return found


def _number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _verified(root: Path, files: Files, name: str, entry: Mapping[str, Any]) -> bytes:
    """The bytes of a listed file, which are read only as far as the manifest says that they go."""
    data = files.read(name, entry["size"])
    if len(data) != entry["size"]:
        found = f"more than {entry['size']}" if len(data) > entry["size"] else f"{len(data)} instead of {entry['size']}"
        raise BundleError(f"{root / name} was altered: it has {found} bytes. {REMEDY}")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise BundleError(f"{root / name} was altered: its sha256 is not the manifest's. {REMEDY}")
    return data


def _seal(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def is_bundle(path: Path) -> bool:
    """Whether a bundle is to be looked for at a path: a folder with a manifest, or a file called .zip."""
    return (path / MANIFEST).is_file() or (path.suffix == ".zip" and path.is_file())


def write_bundle(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Writes aside, then renames; an older bundle at `path` is replaced as a whole. Returns the bundle as read back."""
    if path.exists() and not (path / MANIFEST).is_file() and any(path.iterdir() if path.is_dir() else [path]):
        raise BundleError(f"{path} exists and is not a bundle; choose another --out or remove it")
    files = {n: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for n, c in contents.items()}
    record = manifest.to_json() | {"files": dict(sorted(files.items()))}
    try:
        raw = (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise BundleError(f"no bundle was written, because its manifest would hold a number that is none: {error}"
                          ) from error  # fmt: skip
    with aside(path) as folder:
        for name, data in {**contents, MANIFEST: raw, SEAL: _seal(raw)}.items():
            (folder / name).write_bytes(data)
    return Bundle.read(path)


class aside:  # noqa: N801  a context manager reads as a verb
    """A new folder beside `path` that takes its place on success and vanishes on failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")

    def __enter__(self) -> Path:
        self._temporary.mkdir(parents=True)
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        if self._path.exists():
            old = self._temporary.with_suffix(".old")
            self._path.rename(old)
            self._temporary.rename(self._path)
            shutil.rmtree(old)
        else:
            self._temporary.rename(self._path)
