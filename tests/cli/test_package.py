"""`attar package`, as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from attar import cli
from tests.fixtures_bundle import make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_tiny_bundle(tmp_path / "bundle", gate={"verdict": "pass"})


def test_it_says_what_is_certified(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "repository"
    assert cli.main(["package", str(bundle), "--to", "triton", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "tiny_onnx/config.pbtxt" in said and "tiny_onnx/1/model.onnx is that file." in said
    assert (out / "tiny_onnx/1/model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    # Again, over the earlier one, in another format.
    assert cli.main(["package", str(bundle), "--to", "optimum", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["certified"] == "model.onnx" and "config.json" in record["files"]
    assert not list(out.glob("tiny*")), "the earlier folder is replaced as a whole"


def test_refusals_name_the_remedy(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    cases = {
        ("--to", "triton", "--out", str(tmp_path / "mine")): "choose another --out, or remove it",
        ("--to", "savedmodel", "--out", str(tmp_path / "x")): "invalid choice: 'savedmodel'",
        ("--to", "huggingface", "--out", str(tmp_path / "x")): "is a bundle: add --student",
        ("--to", "optimum", "--student", str(tmp_path / "none"), "--out", str(tmp_path / "x")): "no model folder at",
    }
    for arguments, words in cases.items():
        assert cli.main(["package", str(bundle), *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "x").exists() and (tmp_path / "mine/notes.txt").read_text() == "x"


def test_openvino_names_its_extra(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert cli.main(["package", str(bundle), "--to", "openvino", "--out", str(tmp_path / "x")]) == 2
    assert "pip install 'attar[openvino]'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*x*"))
