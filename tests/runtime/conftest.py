"""Bundles of every kind of task, made once for all tests of the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attar.export.bundle import write
from attar.runtime import server
from attar.runtime.model import Model, load
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_student
from tests.runtime.serving import KINDS


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles by the names of their kinds, and something else that is none."""
    root = tmp_path_factory.mktemp("bundles")
    make_tiny_bundle(root / "tiny")
    for kind in KINDS:
        write(make_student(root / f".model-{kind}", kind=kind, layers=1), root / kind, name="student")
    (root / "notes").mkdir()
    return root


@pytest.fixture(scope="session")
def models(folder: Path) -> Mapping[str, Model]:
    return {kind: load(folder / kind, threads=1) for kind in ("tiny", *KINDS)}


@pytest.fixture(scope="session")
def app(models: Mapping[str, Model]) -> Any:
    return server.create_app(models)
