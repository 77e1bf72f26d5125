"""Where attar keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$ATTAR_CACHE`, else `$XDG_CACHE_HOME/attar`, else `~/.cache/attar`; it need not exist."""
    if own := os.environ.get("ATTAR_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "attar"
