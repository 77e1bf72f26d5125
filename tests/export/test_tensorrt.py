"""Engines of tensorrt-rtx, really parsed and built, without a GPU; and their layers read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import attar
from attar.cli import main
from attar.distill.student import Student
from attar.export.bundle import write
from attar.export.tensorrt import check_origin, extend, key_for, typed
from attar.export.tensorrt.layers import confirm, products
from attar.runtime.bundle import Bundle
from attar.runtime.engines import plans
from attar.runtime.engines.profiles import Profile
from attar.runtime.engines.tensorrt import read_record
from attar.runtime.errors import BundleError, SettingsError
from tests.models import corpus, make_student, sentences

TEXTS = sentences(30, seed=11).texts
PROFILES = (Profile(1, 48, 8, (4, 16)),)
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("tensorrt"), layers=1, hidden=16, ffn=32, heads=2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(("precision", "capability"), [("fp16", "8.6"), ("int8", "8.6"), ("fp8", "8.9")])
def test_build_and_read_back(precision: str, capability: str, student: Student, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="builds engines: pip install 'attar[tensorrt]'")
    model, matrices = typed(student, TEXTS, precision)
    engine = plans.build(trt, model, key_for(trt, capability, precision, PROFILES), PROFILES, tmp_path)
    assert confirm(engine, precision, matrices) == 6
    assert products(engine)["heads.logits.output"] == ("float", "float")


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("capability", ["8.6", "8.9", "12.0"])
@pytest.mark.parametrize("kind", ["text-classification", "multi-task"])
def test_every_precision_for_every_gpu(precision: str, capability: str, kind: str, tmp_path: Path) -> None:
    student = make_student(tmp_path / "m", "mpnet" if kind == "text-classification" else "bert", kind=kind)
    trt = pytest.importorskip("tensorrt_rtx", reason="builds engines: pip install 'attar[tensorrt]'")
    model, matrices = typed(student, corpus(kind, 30).texts, precision)
    if precision == "fp8" and capability == "8.6":
        with pytest.raises(SettingsError, match=r"fp8 needs a GPU of compute capability 8.9 or more, not 8.6"):
            plans.build(trt, model, key_for(trt, capability, precision, PROFILES), PROFILES, tmp_path)
        return
    engine = plans.build(trt, model, key_for(trt, capability, precision, PROFILES), PROFILES, tmp_path)
    assert confirm(engine, precision, matrices) == 12


def test_another_precision_is_noticed(student: Student, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="builds engines: pip install 'attar[tensorrt]'")
    model, matrices = typed(student, TEXTS, "fp32")
    engine = plans.build(trt, model, key_for(trt, "8.9", "fp32", PROFILES), PROFILES, tmp_path)
    with pytest.raises(SettingsError, match=r"asked for fp16 and layers.0.query.product is float x float"):
        confirm(engine, "fp16", matrices)
    with pytest.raises(SettingsError, match="nothing is nowhere to be seen"):
        confirm(engine, "fp32", ("nothing",))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="builds engines: pip install 'attar[tensorrt]'")
    with pytest.raises(SettingsError, match="cannot read the ONNX file"):
        plans.build(trt, b"no model", key_for(trt, "8.9", "fp16", PROFILES), PROFILES, tmp_path)


def test_the_verb(student: Student, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="builds engines: pip install 'attar[tensorrt]'")
    student.save(tmp_path / "student")
    write(student, tmp_path / "bundle", name="small")
    (tmp_path / "texts.txt").write_text("the film was dull\n" * 4)  # of one length: two profiles
    command = ["tensorrt", str(tmp_path / "student"), str(tmp_path / "bundle"), "--data", str(tmp_path / "texts.txt")]
    options = ["--compute-capability", "8.9", "--out", str(tmp_path / "gpu"), "--json"]
    assert main([*command, *options, "--precision", "int8"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["engines"][0]["confirmed"] == 6 and record["judged"] == "int8" and record["agreement"] == 100
    bundle = Bundle.read(tmp_path / "gpu")
    precision, profiles, keys = read_record(bundle.contents)
    assert precision == "int8" and [(p.least, p.longest) for p in profiles] == [(1, 6), (7, 48)]
    assert [key.capability for key in keys] == ["8.9"] and bundle.manifest.files[keys[0].file]["size"] > 0
    # It still is the bundle that it was.
    assert attar.load(tmp_path / "gpu")("a dull film") == attar.load(tmp_path / "bundle")("a dull film")
    # On a GPU of another kind a new engine is built from the bundle's ONNX file.
    wanted, model = replace(keys[0], capability="12.0"), bundle.contents["tensorrt.onnx"]
    found = plans.fitting(trt, model, wanted, profiles[:1], shipped={keys[0]: b""}, cache=cache)
    assert products(found)["layers.0.output.product"] == ("int8", "int8")
    assert {p.suffix for p in cache.rglob("*") if p.is_file()} == {".engine", ".sha256"}


def test_refusals(student: Student, tmp_path: Path) -> None:
    bundle = write(student, tmp_path / "bundle", name="small")
    other = make_student(tmp_path / "other", layers=1, hidden=16, ffn=32, heads=2, seed=3)
    with pytest.raises(BundleError, match="is not what this student exports to: give the student"):
        check_origin(bundle, other)
    with pytest.raises(SettingsError, match="name the compute capabilities to build for"):
        extend(bundle, student, TEXTS, "fp16", (), tmp_path / "out")
    assert not (tmp_path / "out").exists()
