"""What an exported graph says of itself, and that it is the same bytes wherever it is exported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.bundle import write
from attar.export.onnx import to_onnx
from attar.export.onnx.needs import needs
from attar.runtime.version import __version__
from tests.export.plans import planned
from tests.models import make_student

ROOT = Path(__file__).resolve().parents[2]

HASHES = """
import hashlib, sys
from pathlib import Path
from attar.distill.student import Student
from attar.export.onnx import to_onnx
for folder in sys.argv[1:]:
    print(hashlib.sha256(to_onnx(Student.load(Path(folder)))).hexdigest())
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("metadata") / "m")


def test_another_process_writes_the_same_bytes(student: Student, tmp_path: Path) -> None:
    """Where sets and dictionaries of other things have another order: hashes of strings begin at another seed."""
    given = {scheme: planned(student, scheme) for scheme in ("fp32", "smooth", "int4 weights")}
    for name, chosen in given.items():
        chosen.save(tmp_path / name)
    mine = str(int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")) + 1)
    command = [sys.executable, "-c", HASHES, *(str(tmp_path / name) for name in given)]
    found = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": mine}
    )
    assert found.stdout.split() == [hashlib.sha256(to_onnx(chosen)).hexdigest() for chosen in given.values()]


def test_a_graph_says_what_it_is(student: Student) -> None:
    model = onnx.load_from_string(to_onnx(planned(student, "per_token")))
    assert (model.producer_name, model.producer_version) == ("attar", __version__)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (
        10,
        [("", 21), ("com.microsoft", 1)],
    )
    assert model.doc_string == model.graph.doc_string
    made = {name for node in model.graph.node for name in node.output} | {w.name for w in model.graph.initializer}
    for part in ("layers.0.query", "layers.0.attended", "layers.0.result", "_rows", "layers.0.context"):
        assert part in model.doc_string and any(name.endswith(part) for name in made), part
    for part in ("context_tokens", "query_twice", "_u8", "_scale", ".int8"):
        assert part in model.doc_string and any(name.endswith(part) for name in made), part
    assert "bytes" not in onnx.load_from_string(to_onnx(student)).doc_string


NEEDED: Mapping[str, tuple[QuantPlan | None, str]] = {
    "fp32": (None, "1.21"),
    "per token": (QuantPlan(), "1.21"),
    "int8 weights": (QuantPlan(kind="weights"), "1.21"),
    "int4 weights": (QuantPlan(kind="weights", bits=4, words="fp32"), "1.23"),
    "int4 words": (QuantPlan(words="int4"), "1.23"),
}
"""By what those releases were seen to compute: benchmarks/NOTES.md."""


@pytest.mark.parametrize("name", NEEDED)
def test_the_manifest_names_the_oldest_engine(name: str, student: Student, tmp_path: Path) -> None:
    plan, oldest = NEEDED[name]
    chosen = student if plan is None else replace(student, plan=plan.to_json())
    requires = write(chosen, tmp_path / "b", name="tiny").manifest.requires
    assert {k: requires[k] for k in ("onnxruntime", "opset", "ir")} == {"onnxruntime": oldest, "opset": 21, "ir": 10}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (floor,) = (line.partition(">=")[2] for line in extras["cpu"])
    assert [int(n) for n in oldest.split(".")] <= [int(n) for n in floor.split(".")], "the extra installs older ones"


def test_graphs_of_other_makers() -> None:
    """Without our operators, nothing but the opset asks for more."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])

    def oldest(opset: int) -> str:
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        return str(needs(model.SerializeToString())["onnxruntime"])

    assert [oldest(opset) for opset in (18, 21, 22)] == ["1.19", "1.19", "1.23"]
