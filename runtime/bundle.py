"""The bundle: a folder that proves itself. Every file is hashed and checked before any parser sees it.

manifest.json     schema version, sha256 and size of every other file, task, limits, lineage, gate certificate
manifest.sha256   the hash of manifest.json itself, so that one flipped byte anywhere is found
model.onnx  tokenizer.json  golden.json  README.md (the model card)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from attar.runtime.errors import BundleError
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import Task

SCHEMA = 1
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
MAX_FILE = 2 << 30


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
        if record["schema"] != SCHEMA:
            raise BundleError(
                f"the bundle has schema {record.get('schema')!r}, this attar reads {SCHEMA}: "
                "upgrade attar, or export it again"
            )
        try:
            return Manifest._parse(record)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{MANIFEST} is not a manifest: {error!r}. Export the bundle again") from error

    @staticmethod
    def _parse(record: Mapping[str, Any]) -> Manifest:
        return Manifest(
            task=task_of(record["task"]),
            files={n: {"sha256": str(f["sha256"]), "size": int(f["size"])} for n, f in record["files"].items()},
            limits=record["limits"],
            pad_id=record["pad_id"],
            scheme=record["scheme"],
            lineage=tuple(record["lineage"]),
            gate=record["gate"],
            requires=record["requires"],
            name=record["name"],
            attar=record["attar"],
        )


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: the manifest, and the bytes of every file as they were hashed."""

    path: Path
    manifest: Manifest
    contents: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes on disk, the manifest and its seal included."""
        return sum((self.path / name).stat().st_size for name in (*self.contents, MANIFEST, SEAL))

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Bundle:
        """Reads and checks every file; `BundleError` names the first one that is missing, altered or out of place."""
        root = Path(path)
        if not root.is_dir():
            raise BundleError(f"no bundle at {root}: it should be a folder with a {MANIFEST}")
        raw = _read(root, MANIFEST)
        if _read(root, SEAL) != _seal(raw):
            raise BundleError(f"{root / MANIFEST} was altered: it does not match {SEAL}. {_REMEDY}")
        try:
            record = json.loads(raw)
        except ValueError as error:
            raise BundleError(f"{root / MANIFEST} is not valid JSON: {error}. {_REMEDY}") from error
        manifest = Manifest.from_json(record)
        contents: dict[str, bytes] = {}
        for name, record in manifest.files.items():
            data = _read(root, name)
            if len(data) != record["size"]:
                raise BundleError(f"{root / name} has {len(data)} bytes instead of {record['size']}. {_REMEDY}")
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                raise BundleError(f"{root / name} was altered: its sha256 is not the manifest's. {_REMEDY}")
            contents[name] = data
        return Bundle(root, manifest, contents)


_REMEDY = "Copy the bundle again from its source, or export it again."


def _seal(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _read(root: Path, name: str) -> bytes:
    """The bytes of a plain file directly inside `root`; links and paths are refused."""
    if name != Path(name).name or name in {"", ".", ".."} or "\\" in name:
        raise BundleError(f"the bundle names a file outside its folder: {name!r}")
    target = root / name
    if target.is_symlink():
        raise BundleError(f"{target} is a symbolic link; a bundle holds plain files only. {_REMEDY}")
    if not target.is_file():
        raise BundleError(f"{target} is missing: the bundle is not complete. {_REMEDY}")
    if target.stat().st_size > MAX_FILE:
        raise BundleError(f"{target} is larger than {MAX_FILE} bytes. {_REMEDY}")
    return target.read_bytes()


def write_bundle(path: Path, manifest: Manifest, contents: Mapping[str, bytes]) -> Bundle:
    """Writes aside, then renames; an older bundle at `path` is replaced as a whole. Returns the bundle as read back."""
    if path.exists() and not (path / MANIFEST).is_file() and any(path.iterdir() if path.is_dir() else [path]):
        raise BundleError(f"{path} exists and is not a bundle; choose another --out or remove it")
    files = {n: {"sha256": hashlib.sha256(c).hexdigest(), "size": len(c)} for n, c in contents.items()}
    record = manifest.to_json() | {"files": dict(sorted(files.items()))}
    raw = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
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
