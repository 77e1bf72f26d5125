"""The verbs on a bundle, as a user runs them: a process, its output, its exit code."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gate = {
        "verdict": "pass",
        "difference": -0.1,
        "lower_bound": -0.6,
        "margin": 2.0,
        "confidence": 0.95,
        "n": 1000,
        "teacher": 92.0,
        "student": 91.9,
        "needed": None,
    }
    lineage = ({"use": "distill.finetune", "epochs": 3}, {"use": "compress.quantize"})
    return make_tiny_bundle(tmp_path_factory.mktemp("verbs") / "tiny", gate=gate, lineage=lineage)


def attar(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "attar", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True)


def answers(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(done: subprocess.CompletedProcess[bytes], words: str) -> None:
    error = done.stderr.decode()
    assert done.returncode == 2, error
    assert error.startswith("attar: error: ")
    assert words in error
    assert "Traceback" not in error


def test_predict_texts(bundle: Path) -> None:
    found = answers(attar("predict", bundle, "a good film", "bad", "film " * 40, "--threads", 1))
    assert [a["label"] for a in found[:2]] == ["positive", "negative"]
    assert [a["truncated"] for a in found] == [False, False, True]
    assert set(found[0]) == {"label", "score", "scores", "truncated"}


def test_predict_stdin_answers_every_line(bundle: Path) -> None:
    source = "\ufeffgood\r\n\nbad film\u2028\ncafé".encode()
    found = answers(attar("predict", bundle, "-", stdin=source))
    assert [a["label"] for a in found] == ["positive", "negative", "negative", "negative"]
    assert answers(attar("predict", bundle, "-", stdin=b"")) == []


def test_predict_stdin_is_answered_as_it_comes(bundle: Path) -> None:
    command = [sys.executable, "-m", "attar", "predict", str(bundle), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for text, label in (("good", "positive"), ("bad", "negative")):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["label"] == label
        process.stdin.close()
    assert process.returncode == 0


def test_predict_many_lines_keeps_the_order(bundle: Path) -> None:
    words = ["good film " * (i % 4) if i % 3 else "bad" for i in range(10_000)]
    found = answers(attar("predict", bundle, "-", stdin="\n".join(words).encode()))
    expected = ["positive" if w.startswith("good") else "negative" for w in words]
    assert [a["label"] for a in found] == expected


def test_predict_names_the_line_that_is_not_utf8(bundle: Path) -> None:
    done = attar("predict", bundle, "-", stdin=b"good\nbad\ncaf\xe9\n")
    refused(done, "stdin, line 3: not UTF-8: byte 0xe9 at offset 3")
    assert len(done.stdout.splitlines()) == 2


def test_predict_data_file(bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("body,id\ngood,1\nbad,2\n")
    found = answers(attar("predict", bundle, "--data", table, "--text-column", "body"))
    assert [a["label"] for a in found] == ["positive", "negative"]
    refused(attar("predict", bundle, "--data", table), "no text column")
    refused(attar("predict", bundle, "and a text", "--data", table), "either texts")
    refused(attar("predict", bundle, "text", "--text-column", "body"), "--text-column")
    refused(attar("predict", bundle), "either texts")


def test_inspect(bundle: Path) -> None:
    done = attar("inspect", bundle)
    shown = done.stdout.decode()
    assert done.returncode == 0, done.stderr
    for words in (
        "tiny",
        "negative, positive",
        "fp32",
        "model.onnx: ",
        "max_batch 32",
        "PASS: student 91.9 %",
    ):
        assert words in shown
    assert "1. distill.finetune (epochs 3)" in shown
    record = json.loads(attar("inspect", bundle, "--json").stdout)
    assert record["size"] == sum(p.stat().st_size for p in bundle.iterdir())
    refused(attar("inspect", bundle.parent / "none"), "no bundle at")


def test_verify(bundle: Path, tmp_path: Path) -> None:
    done = attar("verify", bundle, "--threads", 1)
    assert done.stdout.startswith(b"OK: 4 files match, 4 golden inputs reproduce"), done.stderr
    record = json.loads(attar("verify", bundle, "--json").stdout)
    assert (record["ok"], record["golden"]) == (True, 4)
    assert record["worst_golden_difference"] < 1e-4
    stray = make_tiny_bundle(tmp_path / "stray")
    (stray / "notes.txt").write_text("x")
    refused(attar("verify", stray), "notes.txt is not listed")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "golden.json", "README.md", "manifest.json"])
def test_verify_finds_a_flipped_byte(tmp_path: Path, name: str) -> None:
    altered = make_tiny_bundle(tmp_path / "altered")
    data = bytearray((altered / name).read_bytes())
    data[len(data) // 2] ^= 1
    (altered / name).write_bytes(data)
    refused(attar("verify", altered), "was altered")


def test_bench(bundle: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("text,label\ngood,positive\nbad film,negative\n")
    done = attar("bench", bundle, "--against", bundle, "--data", table, "--rounds", 2, "--threads", 1, "--json")
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["speedup_p50"]["ratio"] > 0
    assert record["accuracy"]["bundle"] == 100
    assert b"round 2 of 2" in done.stderr
    refused(attar("bench", bundle, "--against", tmp_path / "none"), "nothing to benchmark at")
    refused(attar("bench", bundle, "--label-column", "label"), "--data")


def test_bench_without_a_baseline_or_data_prints_a_table(bundle: Path) -> None:
    done = attar("bench", bundle, "--rounds", 2)
    assert done.returncode == 0, done.stderr
    assert b"p50 ms" in done.stdout
