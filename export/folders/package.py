"""Writes a folder of any format: its files, the certificate of the bundle, and how it is loaded."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Protocol

from attar.export.folders.source import Made, Source
from attar.runtime.bundle import aside
from attar.runtime.errors import SettingsError
from attar.runtime.version import __version__

RECORD = "attar.package.json"
"""In every folder: its format, the bundle's manifest, and whether the certificate is about the files that lie here."""


class Format(Protocol):
    """The shape of a format's module."""

    def write(self, source: Source, folder: Path) -> Made:
        """Fill the folder, or raise."""
        ...


def package(source: Source, to: str, out: Path) -> Made:
    """Writes the folder `out` of the format `to`, an earlier one included; nothing where it fails."""
    module: Format = importlib.import_module(f"attar.export.folders.{to.replace('-', '_')}")
    if source.bundle and source.student and not getattr(module, "WEIGHTS", False):
        raise SettingsError(f"{to} takes the bundle's own files and no weights: leave out --student")
    with aside(out) as folder:
        made = module.write(source, folder)
        manifest = source.bundle.manifest.to_json() if source.bundle else None
        record = {"format": to, "attar": __version__, "certified": made.own or None, "manifest": manifest}
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(source, to, made), encoding="utf-8")
    return made


def card(source: Source, to: str, made: Made) -> str:
    """How the folder is loaded, what is proved of it, and the card of the bundle."""
    own = source.bundle.contents.get("README.md", b"").decode() if source.bundle else ""
    below = f"\n---\n\nThe bundle's own card:\n\n{own}" if own else ""
    return (
        f"# {source.manifest.name}, for {to}\n\n{made.how}\n\n## What is proved\n\n{certificate(source, made)}\n{below}"
    )


def certificate(source: Source, made: Made) -> str:
    """What the gate of the bundle says of this folder."""
    if source.bundle is None:
        return "Nothing: the folder was made from a student, and no gate has judged it."
    sha = source.bundle.manifest.files["model.onnx"]["sha256"]
    gate = source.bundle.manifest.gate
    if gate is None:
        return "Nothing: no accuracy gate was run on the bundle that this folder was made from."
    verdict = gate["verdict"]
    told = [f"The certificate in {RECORD} ({verdict}) is about the bytes of the bundle's model.onnx (sha256 {sha})."]
    told += [f"{made.own} is that file."] if made.own else []
    told += [f"No gate has judged {made.other}."] if made.other else []
    return " ".join(told)
