"""What an attacker has: zips of any content, and manifests whose hashes are right."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from attar.runtime.bundle import MANIFEST, SEAL

ROOT = Path(__file__).parents[3]
LIMITED = """
import resource, signal, sys, time
import attar
from attar.runtime.errors import AttarError

attar.load(sys.argv[1], threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
signal.alarm(30)
try:
    attar.load(sys.argv[2], threads=1)
    print("loaded")
except AttarError as error:
    print("refused:", error)
"""


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a bundle by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def zip_of(files: dict[str, bytes], target: Path, *more: tuple[zipfile.ZipInfo, bytes]) -> Path:
    """A zip of the files and of anything more, however it is called."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for entry, data in more:
            archive.NameToInfo.pop(entry.filename, None)  # zipfile would warn of a name's second file
            archive.writestr(entry, data)
    return target


def sealed(raw: bytes) -> dict[str, bytes]:
    """A manifest and its hash."""
    return {MANIFEST: raw, SEAL: f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n".encode()}


def rehashed(files: dict[str, bytes], **changed: bytes | dict[str, Any]) -> dict[str, bytes]:
    """The files with other contents, named as in `tokenizer_json`, and a manifest and a seal that agree."""
    found = dict(files)
    record = json.loads(files[MANIFEST])
    for key, content in changed.items():
        name = key.replace("_", ".")
        found[name] = content if isinstance(content, bytes) else json.dumps(content).encode()
        record["files"][name] = {"sha256": hashlib.sha256(found[name]).hexdigest(), "size": len(found[name])}
    return found | sealed(json.dumps(record).encode())


def write(files: dict[str, bytes], folder: Path) -> Path:
    """The files as a folder."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def load_limited(sound: Path, hostile: Path) -> str:
    """What a process says of a bundle that may take 1 GiB of memory and 30 seconds."""
    command = [sys.executable, "-c", LIMITED, str(sound), str(hostile)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout
