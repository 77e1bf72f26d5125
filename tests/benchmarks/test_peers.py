"""benchmarks/peers.py with made-up peers in this environment: what it says of them, and what they are given."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attar.distill.encoder import Encoder
from attar.distill.heads import HeadShape
from attar.distill.student import Student
from attar.export.bundle import manifest
from attar.runtime.errors import AttarError, SettingsError
from attar.runtime.tasks.regression import Regression
from benchmarks import peers
from benchmarks.peers_given import given
from benchmarks.peers_rounds import Line, System
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_student, sentences

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
ROWS = [("a good film", "positive"), ("an awful film", "negative"), ("great", "positive"), ("dull", "negative")]
PEER = """
import sys
from pathlib import Path
import numpy as np
from system import main

def prepare(given, made):
    {prepare}
    (made / "model.bin").write_bytes(bytes(2_000_000))

def load(given, made, threads):
    def batch(texts):
        {batch}
        return np.array([[0.4, 0.6]] * len(texts))
    return batch

sys.exit(main("always positive", prepare, load))
"""


def peer(folder: Path, name: str, prepare: str = "pass", batch: str = "pass") -> None:
    (folder / "peers" / f"run_{name}.py").write_text(PEER.format(prepare=prepare, batch=batch))
    (folder / "environments" / f"{name}.txt").write_text(f"{name}==1.2.3\nother==4\nonnxruntime==5.6\n")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a comparison among peers that lie in tmp_path and run in this environment."""
    for name in ("peers", "environments"):
        (tmp_path / name).mkdir()
    shutil.copy(FOLDER / "peers" / "system.py", tmp_path / "peers")
    monkeypatch.setattr(peers, "HERE", tmp_path)
    monkeypatch.setattr(peers, "interpreter", lambda *_: Path(sys.executable))
    monkeypatch.setattr("benchmarks.peers_rounds.PAUSE", 0.0)
    monkeypatch.setattr("benchmarks.peers_rounds.SECONDS", 0.0)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    make_tiny_bundle(tmp_path / "tiny" / "bundle")
    made = ["--environments", str(tmp_path / "made"), "--json", str(tmp_path / "table.json")]
    spent = ["--rounds", "2", "--threads", "1"]
    return [str(tmp_path / "tiny" / "bundle"), "--data", str(data), "--train", str(data), *made, *spent]


def test_peers_are_rows_and_those_that_fail_say_why(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer(tmp_path, "good")
    peer(tmp_path, "never", prepare="sys.exit('no kernel for this')")
    assert peers.main(call) == 0
    record = json.loads((tmp_path / "table.json").read_text())
    first, good, never = record["rows"]
    assert first[0].startswith("attar: bundle, ") and first[2] == "100.00"
    assert good[:3] == ["good: always positive", "good 1.2.3, onnxruntime 5.6", "50.00"]
    speed = re.compile(r"\d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\]")
    assert good[-1] == "2.0" and speed.fullmatch(good[4]) and speed.fullmatch(good[6])
    assert int(good[7]) in (1, 4, 8, 16, 32, 64, 128, 256)
    assert never[:2] == ["never", "does not convert or train: no kernel for this"] and not any(never[2:])
    assert [len(system["p50_ms"]) for system in record["data"]] == [2, 2, 2]
    assert "| good: always positive |" in capsys.readouterr().out


def test_where_no_peer_runs_the_exit_status_says_so(
    call: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer(tmp_path, "broken", batch="raise RuntimeError('out of order')")
    assert peers.main(call) == 1
    assert "died during 'evaluate' (exit 1): RuntimeError: out of order" in capsys.readouterr().err
    assert not (tmp_path / "table.json").exists()


def test_unknown_peers_are_refused(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main([*call, "--peers", "fasttext"])
    assert "unknown peer 'fasttext'; known:" in capsys.readouterr().err


def test_every_peer_has_exact_pins_and_is_among_them() -> None:
    wanted = {"ctranslate2", "fastembed", "model2vec", "openvino", "optimum-onnx", "sentence-transformers", "setfit"}
    assert {*peers.known()} == wanted == {path.stem for path in (FOLDER / "environments").glob("*.txt")}
    for name in wanted:
        lines = peers.pins(name).splitlines()
        assert all(line.count("==") == 1 and "@" not in line and "+" not in line for line in lines), name
        assert peers.versions(name).startswith(f"{name} "), name
    assert "torch 2.13.0" in peers.versions("optimum-onnx") and "transformers 4.57" in peers.versions("optimum-onnx")


def linear(folder: Path) -> Student:
    """A tiny BERT with a linear head on the first token."""
    student = make_student(folder)
    encoder = Encoder(replace(student.transformer.shape, heads=(HeadShape("logits", 2),)))
    torch.manual_seed(3)
    known = {k: v for k, v in student.encoder.state_dict().items() if not k.startswith("heads.")}
    encoder.load_state_dict(known | {k: torch.randn_like(v) for k, v in encoder.state_dict().items() if k not in known})
    return replace(student, encoder=encoder.eval())


def test_the_checkpoint_and_the_head_are_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModel, AutoTokenizer

    monkeypatch.setattr("benchmarks.peers_given.write_onnx", lambda folder: None)  # seconds of PyTorch's exporter
    student, texts = linear(tmp_path / "source"), [str(text) for text in sentences(9).texts]
    student.save(tmp_path / "student")
    folder = given(tmp_path, manifest(student, "x"), sentences(9), "", tmp_path / "student")
    assert folder == given(tmp_path, manifest(student, "x"), sentences(9), "", tmp_path / "student")
    assert folder != given(tmp_path, manifest(student, "x"), sentences(8), "", tmp_path / "student")
    model = AutoModel.from_pretrained(folder / "checkpoint", add_pooling_layer=False).eval()
    inputs = AutoTokenizer.from_pretrained(folder / "checkpoint")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state[:, 0].numpy()
    with np.load(folder / "head.npz") as head:
        logits = states @ head["weight"].T + head["bias"]
    wanted = student.outputs(student.encode(texts))["logits"]
    assert np.abs(logits - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_what_peers_cannot_be_given_is_refused(tmp_path: Path) -> None:
    student = make_student(tmp_path / "source")
    student.save(tmp_path / "student")
    with pytest.raises(SettingsError, match="a linear head on the first token"):
        given(tmp_path, manifest(student, "x"), sentences(4), "", tmp_path / "student")
    with pytest.raises(SettingsError, match="not in regression"):
        given(tmp_path, replace(manifest(student, "x"), task=Regression()), sentences(4), "", None)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "student"}


def test_a_process_that_ends_leaves_its_last_words() -> None:
    code = "import sys; sys.stdin.readline(); sys.exit('no such model')"
    with Line([sys.executable, "-c", code], 1) as line, pytest.raises(AttarError, match=r"exit 1\): no such model"):
        line.ask("load")


def test_faster_is_the_geometric_mean_over_rounds() -> None:
    none: Line = None  # type: ignore[assignment]
    ours = System("a", none, "", 0, p50=[1.0, 2.0], rates=[8.0, 8.0])
    other = System("b", none, "", 0, p50=[2.0, 16.0], rates=[4.0, 1.0])
    single, throughput = ours.faster(other)
    assert (round(single.ratio, 9), round(throughput.ratio, 9)) == (4.0, 4.0)  # sqrt(2 * 8), sqrt(2 * 8)
