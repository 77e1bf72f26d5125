"""Where a bundle's files lie: in a folder, or in a zip that is never unpacked. Both give plain files by name, no more.

Nothing is trusted here: a file is opened once, is known to be a plain one when it is open, and no more of it is read
than its reader has asked for, so that neither links, pipes and huge files nor bombs of any kind get further than this.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol
from uuid import uuid4

from attar.runtime.errors import BundleError, SettingsError

REMEDY = "Copy the bundle again from its source, or export it again."
MAX_ZIP = (1 << 32) - 1
"""Bytes; beyond it a zip needs its 64-bit form, and a bundle should be a folder."""
MAX_FILES = 1000
MAX_DIRECTORY = 1 << 20
"""Bytes of what a zip says of its files."""
RATIO = 100
"""How many times its own size a zip may hold: vocabularies shrink to a fifth, weights hardly."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_END = struct.Struct("<4s4H2LH")
_END64 = b"PK\x06\x07"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, NotImplementedError, RuntimeError,
               ValueError, LookupError)  # fmt: skip
"""What zipfile raises of archives that are none."""


class Files(Protocol):
    """Plain files by name."""

    def names(self) -> set[str]:
        """Everything that lies there, whatever it is."""
        ...

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file, one more than `most` at the most; `BundleError` where it is missing or no plain file."""
        ...


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Files]:
    """The files of a folder, or of a zip while it is open; what the system says against it is a `BundleError`."""
    try:
        if path.is_dir():
            yield _Folder(path)
        elif path.is_file():
            with open(path, "rb") as stream:
                yield _Zip(path, stream)
        else:
            raise BundleError(
                f"no bundle at {path}: it should be a folder with a manifest.json, or such a folder as a zip"
            )
    except OSError as error:
        raise BundleError(f"{error.filename or path} cannot be read: {error.strerror or error}. {REMEDY}") from error


def _check_name(name: str) -> None:
    """`BundleError` for what is not the plain name of a file on every system."""
    if not _NAME.fullmatch(name):
        raise BundleError(
            f"the bundle names a file outside its folder: {name[:200]!r}; a name has letters, digits and _.+- alone"
        )


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> set[str]:
        return set(os.listdir(self._root))

    def read(self, name: str, most: int) -> bytes:
        _check_name(name)
        path = self._root / name
        if path.is_symlink():
            raise BundleError(f"{path} is a symbolic link; a bundle holds plain files only. {REMEDY}")
        # What is there may be another thing by now: a link is not followed, and a pipe not waited for.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags)
        except FileNotFoundError as error:
            raise BundleError(f"{path} is missing: the bundle is not complete. {REMEDY}") from error
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise BundleError(f"{path} is not a plain file. {REMEDY}")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(min(most, found.st_size) + 1)
        finally:
            os.close(descriptor)


class _Zip:
    """Files at the top of a zip, stored or deflated; anything else that zips may hold is refused."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        try:
            size = _check_end(stream)
            self._zip = zipfile.ZipFile(stream)
            self._entries = {entry.filename: entry for entry in map(_checked, self._zip.infolist())}
            if len(self._entries) != len(self._zip.infolist()):
                raise ValueError("it holds two files of one name")
            if sum(entry.file_size for entry in self._entries.values()) > RATIO * size:
                raise ValueError(f"it would be more than {RATIO} times as large unpacked")
        except _UNREADABLE as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> BundleError:
        return BundleError(
            f"{self._path} cannot be read as a zip of a bundle's files: {error}. Copy it again, or make it again with "
            "`attar package BUNDLE --to zip`"
        )

    def names(self) -> set[str]:
        return set(self._entries)

    def read(self, name: str, most: int) -> bytes:
        _check_name(name)
        entry = self._entries.get(name)
        if entry is None:
            raise BundleError(f"{self._path}: {name} is missing: the bundle is not complete. {REMEDY}")
        try:
            with self._zip.open(entry) as file:
                return file.read(most + 1)
        except _UNREADABLE as error:
            raise self._refused(ValueError(f"{name}: {error}")) from error


def _check_end(stream: IO[bytes]) -> int:
    """The size of a zip whose last record is in place; it is read here, before zipfile reads all that it announces.

    The table of its files has to end where that record starts, and nothing may follow or be said a second time.
    """
    size = stream.seek(0, os.SEEK_END)
    if not _END.size <= size <= MAX_ZIP:
        raise ValueError(f"it has {size} bytes")
    start = size - _END.size
    stream.seek(max(0, start - 20))
    tail = stream.read()
    mark, disk, first, here, count, length, offset, comment = _END.unpack(tail[-_END.size :])
    if mark != b"PK\x05\x06" or comment or tail.startswith(_END64):
        raise ValueError("its last record is not where it should be")
    if disk or first or here != count or offset + length != start:
        raise ValueError("its table of files is not where it should be")
    if count > MAX_FILES or length > MAX_DIRECTORY:
        raise ValueError(f"it holds {count} files; {MAX_FILES} are too many for a bundle")
    return size


def _checked(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The entry, if it is a plain file at the top of the zip."""
    name = entry.orig_filename
    if not _NAME.fullmatch(name) or entry.filename != name:
        raise ValueError(f"it holds {name[:200]!r}, and files lie at its top, under plain names")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ValueError(f"{name} is a link or another special file")
    if entry.flag_bits & 1:
        raise ValueError(f"{name} is encrypted")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is neither stored nor deflated")
    return entry


def pack(files: Mapping[str, bytes], path: Path) -> None:
    """Writes files as a zip whose bytes depend on theirs alone: sorted, without dates, and stored, since deflated bytes
    are another library's tomorrow, and weights hardly shrink. Writes aside, then renames."""
    if sum(map(len, files.values())) > MAX_ZIP - MAX_DIRECTORY:
        raise SettingsError(f"the bundle is too large for a zip of {MAX_ZIP} bytes: keep it as a folder")
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(part, "w") as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name)
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                archive.writestr(entry, files[name])
        part.replace(path)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # most often it is gone already
            part.unlink()
