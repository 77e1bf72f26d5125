"""A teacher's baselines: which are measured, what is refused, and that all of them answer as the teacher does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from attar.distill.bench_worker import TorchSystem
from attar.pipeline.baselines import baselines
from attar.pipeline.outside import load_any
from attar.runtime.bench.client import Subject
from attar.runtime.bench.tuned import TunedSystem, fastest
from attar.runtime.errors import MissingExtraError
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_checkpoint, sentences


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "teacher", layers=1)


def test_a_teacher_is_measured_once_for_every_baseline_and_a_bundle_as_it_is(teacher: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    assert baselines([teacher, bundle], [], 16, tmp_path) == [teacher, bundle]
    found = baselines([teacher, bundle], ["torch", "torch-bf16", "torch"], 16, tmp_path)
    assert [one.name if isinstance(one, Subject) else one for one in found] == [
        "teacher torch",
        "teacher torch-bf16",
        bundle,
    ]


@pytest.mark.parametrize(
    ("package", "chosen", "extra"), [("torch", [], "bench"), ("onnxscript", ["torch", "onnx"], "train")]
)
def test_a_missing_package_is_named_with_its_command(
    package: str, chosen: list[str], extra: str, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attar.pipeline.baselines.find_spec", lambda name: None if name == package else name)
    with pytest.raises(MissingExtraError, match=rf"'{package}': pip install 'attar\[{extra}\]'"):
        baselines([teacher], chosen, 16, tmp_path)


def test_tuned_onnx_runtime_and_bf16_answer_as_the_teacher_does(teacher: Path, tmp_path: Path) -> None:
    (onnx,) = baselines([teacher], ["onnx"], 32, tmp_path)
    assert isinstance(onnx, Subject) and onnx.module == "attar.runtime.bench.tuned"
    texts = [str(text) for text in sentences(6).texts]
    wanted = load_any(teacher).answer(texts)
    tuned, half = TunedSystem(Path(onnx.arguments[0]), 1), TorchSystem(teacher, 1, 32, "bf16")
    assert "fp32, tuned: single texts" in tuned.kind and "bf16 eager" in half.kind
    for mine, theirs in zip(tuned.many(texts), wanted, strict=True):
        assert mine.score == pytest.approx(theirs.score, abs=1e-5)
    assert tuned.many(texts[:1])[0].score == pytest.approx(wanted[0].score, abs=1e-5)
    for mine, theirs in zip(half.many(texts), wanted, strict=True):
        assert mine.scores[theirs.label] == pytest.approx(theirs.score, abs=0.03)  # bf16 has 8 bits


def test_the_fastest_is_found_whatever_the_first_call_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("attar.runtime.bench.tuned.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    costs = {"a": [1.0, 3.0, 3.0, 2.0], "b": [9.0, 1.0, 4.0, 4.0]}  # of the calls in turn, the first warms up

    def take(name: str) -> None:
        clock[0] += costs[name].pop(0)

    assert fastest({"a": lambda: take("a"), "b": lambda: take("b")}) == "b"
    assert costs == {"a": [], "b": []}
