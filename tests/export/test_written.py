"""Bundles as they are written: complete, proved, replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attar
from attar.distill.student import Student
from attar.export import bundle as writer
from attar.export.bundle import Evidence, in_memory, write
from attar.export.parity import flat
from attar.runtime.bundle import Bundle
from attar.runtime.errors import GateError
from attar.runtime.tasks.base import jsonable
from tests.export.plans import SCHEMES, Make, maker, planned, texts_of
from tests.models import KINDS


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(tmp_path_factory.mktemp("written"))


@pytest.fixture(scope="module")
def student(make: Make) -> Student:
    return make("text-classification")


FAILED: dict[str, Any] = {
    "verdict": "fail", "difference": -9.0, "lower_bound": -11.0, "margin": 2.0, "confidence": 0.95,
    "n": 500, "teacher": 92.0, "student": 83.0, "needed": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_written_bundles_read_back(scheme: str, kind: str, make: Make, tmp_path: Path) -> None:
    chosen = planned(make(kind), scheme, kind).with_step("some.step", {"a": (1,)})
    gate = FAILED | {"verdict": "pass", "difference": 0.0, "lower_bound": -0.5, "student": 92.0}
    evidence = Evidence(gate, "PASS: certainly", {"dev accuracy": "92 %"})
    bundle = write(chosen, tmp_path / "b", name="tiny", evidence=evidence)
    assert bundle == Bundle.read(tmp_path / "b")
    manifest = bundle.manifest
    assert (manifest.name, manifest.scheme, manifest.gate) == ("tiny", writer.scheme(chosen), gate)
    assert manifest.lineage == ({"use": "some.step", "settings": {"a": [1]}},)
    assert ("x86" in manifest.requires) == (scheme in {"per_token", "static"})
    card = bundle.contents["README.md"].decode()
    assert all(words in card for words in ("# tiny", "PASS: certainly", "dev accuracy: 92 %", "`some.step`", "layer 2"))
    assert manifest.task == chosen.task
    texts, loaded, made = texts_of(kind), attar.load(tmp_path / "b", threads=1), in_memory(chosen, threads=1)
    encoded = chosen.encode(texts)
    mine, theirs = flat(loaded.outputs(encoded)), flat(made.outputs(encoded))
    assert mine.keys() == {h.name for h in chosen.task.heads}
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert jsonable(loaded.answer(texts)) == jsonable(made.answer(texts))
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("verdict", ["fail", "not enough data"])
def test_a_failed_gate_writes_nothing(verdict: str, student: Student, tmp_path: Path) -> None:
    evidence = Evidence(FAILED | {"verdict": verdict}, "FAIL: student 83 %")
    with pytest.raises(GateError, match=r"no bundle was written: FAIL: student 83 %.*--allow-failed-gate"):
        write(student, tmp_path / "b", name="tiny", evidence=evidence)
    assert list(tmp_path.iterdir()) == []
    found = write(student, tmp_path / "b", name="tiny", evidence=evidence, allow_failed_gate=True)
    assert found.manifest.gate is not None and found.manifest.gate["verdict"] == verdict
    assert "FAIL: student 83 %" in found.contents["README.md"].decode()


def test_an_interrupted_write_leaves_the_old_bundle(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(student, tmp_path / "b", name="old")
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "golden.json":
            raise OSError("no space left on device")
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for out in (tmp_path / "b", tmp_path / "other"):
            with pytest.raises(OSError, match="no space left"):
                write(student, out, name="new")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert Bundle.read(tmp_path / "b") == old
    assert write(student, tmp_path / "b", name="new").manifest.name == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
