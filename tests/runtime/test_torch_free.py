"""The runtime knows no torch: proved in a process in which every training package refuses to be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attar.export.bundle import write
from tests.models import LABELS, make_student

FORBIDDEN = ("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "safetensors", "matplotlib", "pyarrow")
GUARD = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError("the runtime asked for " + name)

sys.meta_path.insert(0, Refuse())
"""


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", "-c", GUARD + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("free")
    write(make_student(folder / "bert").with_step("a.step", {}), folder / "bundle", name="free")
    return folder / "bundle"


def test_the_guard_guards() -> None:
    for name in FORBIDDEN:
        with pytest.raises(AssertionError, match=f"the runtime asked for {name}"):
            run(f"import {name}")


def test_load_and_answer(bundle: Path) -> None:
    code = f"""
import json, attar
model = attar.load(sys.argv[1], threads=1)
answers = [model("a dull film"), *model(["a superb film", ""])]
loaded = [name for name in {FORBIDDEN!r} if name in sys.modules]
print(json.dumps([[a.label for a in answers], loaded]))
"""
    labels, loaded = json.loads(run(code, bundle))
    assert len(labels) == 3 and set(labels) <= set(LABELS)
    assert loaded == []


COMMAND = "from attar.cli import main\nsys.exit(main())"


def test_help() -> None:
    out = run(COMMAND, "--help")
    assert all(verb in out for verb in ("run", "predict", "serve", "inspect", "verify"))


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_verbs_on_a_bundle(verb: str, bundle: Path) -> None:
    assert {"inspect": "a.step", "verify": "OK"}[verb] in run(COMMAND, verb, bundle)


def test_predict(bundle: Path) -> None:
    assert json.loads(run(COMMAND, "predict", bundle, "a superb film"))["label"] in LABELS


def test_predict_a_file(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text\na superb film\n")
    run(COMMAND, "predict", bundle, "--input", tmp_path / "x.csv", "--output", tmp_path / "y.jsonl", "--threads", 1)
    assert json.loads((tmp_path / "y.jsonl").read_text())["label"] in LABELS
