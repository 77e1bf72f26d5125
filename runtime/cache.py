"""Where attar keeps what it can make or fetch again."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from uuid import uuid4

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`$ATTAR_CACHE`, else `$XDG_CACHE_HOME/attar`, else `~/.cache/attar`; it need not exist."""
    if own := os.environ.get("ATTAR_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "attar"


def keep(path: Path, content: bytes) -> None:
    """Writes aside, then renames; what cannot be kept is made again next time."""
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        log.warning("cannot keep %s (%s): set ATTAR_CACHE to a writable folder", path, error.strerror)
