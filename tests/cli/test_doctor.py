"""The doctor believes no list of providers, only a graph that ran."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from attar.cli import doctor, main


class FakeSession:
    """Stands for onnxruntime.InferenceSession: runs on the CPU whatever it is asked for, or fails."""

    def __init__(self, model, options, providers):
        if providers == ["BrokenExecutionProvider"]:
            raise RuntimeError("libbroken.so.1: cannot open shared object file\nand a long trace")

    def get_providers(self):
        return ["CPUExecutionProvider"]

    def run(self, outputs, feeds):
        return [2 * feeds["x"]]


class FakeOptions:
    def __init__(self):
        self.entries = {}

    def add_session_config_entry(self, key, value):
        self.entries[key] = value


def fake_onnxruntime(*providers):
    return SimpleNamespace(
        __version__="9.9",
        SessionOptions=FakeOptions,
        InferenceSession=FakeSession,
        get_available_providers=lambda: list(providers),
    )


def test_json_says_what_runs_here(capsys):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert set(findings) == {"machine", "int8", "gpus", "packages", "engines", "warnings"}
    assert findings["packages"]["base"]["numpy"] == np.__version__
    assert {"onnxruntime CPU"} <= {engine["name"] for engine in findings["engines"] if engine["works"]}


def test_table_names_engine_and_cores(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "usable cores" in out and "works       onnxruntime CPU" in out


def test_probe_is_a_valid_model():
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(doctor.PROBE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add"]


def test_listed_but_failing_provider_does_not_work():
    checks = doctor._check_onnxruntime(fake_onnxruntime("BrokenExecutionProvider", "CPUExecutionProvider"))
    assert [(check.name, check.works) for check in checks] == [
        ("onnxruntime Broken", False),
        ("onnxruntime CPU", True),
    ]
    assert "cannot open shared object file" in checks[0].detail and "trace" not in checks[0].detail


def test_silent_fallback_to_cpu_does_not_work():
    (check,) = doctor._check_onnxruntime(fake_onnxruntime("CUDAExecutionProvider"))
    assert not check.works and "runs on CPUExecutionProvider" in check.detail


def test_wrong_sums_do_not_work(monkeypatch):
    monkeypatch.setattr(FakeSession, "run", lambda self, outputs, feeds: [np.zeros(2, dtype=np.float32)])
    (check,) = doctor._check_onnxruntime(fake_onnxruntime("CPUExecutionProvider"))
    assert not check.works and "[0.0, 0.0]" in check.detail


def test_tensorrt_without_gpu_builds_but_does_not_run(monkeypatch):
    monkeypatch.setattr(doctor, "gpu_names", lambda: [])
    (check,) = doctor._check_tensorrt(SimpleNamespace(__name__="tensorrt_rtx", __version__="1.7"))
    assert not check.works and "no GPU" in check.detail


def test_nothing_installed_exits_1_and_names_the_remedy(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_engines", list)
    assert main(["doctor"]) == 1
    assert "pip install 'attar[cpu]'" in capsys.readouterr().out


def test_openvino_alone_is_an_engine(monkeypatch, capsys):
    checks = doctor._attempt("openvino", doctor._check_openvino, doctor._import_openvino)
    monkeypatch.setattr(doctor, "check_engines", lambda: checks)
    assert main(["doctor"]) == 0
    assert "works       openvino CPU: 2026" in capsys.readouterr().out


def test_an_engine_that_breaks_on_import_is_reported(monkeypatch):
    def broken(name):
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    (check,) = doctor._attempt("tensorrt", doctor._check_tensorrt)
    assert not check.works and "libnvinfer" in check.detail


def test_an_engine_that_is_not_installed_is_not_listed():
    assert doctor._attempt("no_such_engine", doctor._check_tensorrt) == []


def test_both_onnxruntimes_are_a_conflict():
    packages = {"cpu": {"onnxruntime": "1.0"}, "gpu": {"onnxruntime-gpu": "1.0"}}
    assert "uninstall both" in doctor.conflicts(packages)[0]
    assert doctor.conflicts({"cpu": {"onnxruntime": "1.0"}, "gpu": {"onnxruntime-gpu": None}}) == []


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, "AMX"),
        ({"avx2", "avx_vnni"}, "VNNI: int8"),
        ({"avx2"}, "no VNNI"),
        ({"asimddp", "i8mm"}, "I8MM"),
        ({"asimddp"}, "dot-product"),
        (set(), "no int8 instructions"),
    ],
)
def test_int8_outlook_follows_the_instruction_sets(flags, word):
    assert doctor.int8_outlook(frozenset(flags)).startswith(word)
