"""Versions of engines: as numbers, and refused where they are too old."""

from __future__ import annotations

import re

from attar.runtime.errors import BundleError, SettingsError


def numbers(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with: `1.24.0.dev3` gives (1, 24, 0). Only a manifest may have others."""
    found = re.match(r"\d+(\.\d+)*", version)
    if found is None:
        raise BundleError(f"the manifest requires {version!r}, which is not a version; export the bundle again")
    return tuple(int(part) for part in found[0].split("."))


def require_version(who: str, package: str, found: str, oldest: str) -> None:
    """`SettingsError` where the version is older; `1.21` and `1.21.0` are the same."""
    has, needs = numbers(found), numbers(oldest)
    width = max(len(has), len(needs))
    if has + (0,) * (width - len(has)) < needs + (0,) * (width - len(needs)):
        raise SettingsError(f"{who} needs {package} {oldest} or newer, and {found} is installed: upgrade {package}")
