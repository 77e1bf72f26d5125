"""Engines for GPUs, as far as a machine without one can tell: keys, engines kept and built anew, and clear refusals."""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

import attar
from attar.runtime.bundle import Bundle
from attar.runtime.engines import plans
from attar.runtime.engines.onnx import OnnxEngine, check_placement, misplaced
from attar.runtime.engines.plans import Key, check_capability, fitting
from attar.runtime.engines.profiles import Profile
from attar.runtime.engines.tensorrt import GOLDEN, MODEL, RECORD, read_record
from attar.runtime.errors import AttarError, BundleError, MissingExtraError, SettingsError
from tests.fixtures_bundle import make_tiny_bundle

KEY = Key("tensorrt", "11.4", "8.6", 13, "fp16", "0123abcd")
AHEAD = replace(KEY, driver=None)
PROFILES = (Profile(1, 8, 4, (2, 6)),)
RTX = SimpleNamespace(
    __name__="tensorrt_rtx", __version__="1.7",
    ComputeCapability=SimpleNamespace(__members__={"NONE": 0, "CURRENT": 1, "SM75": 2, "SM89": 3, "SM120": 4}),
)  # fmt: skip


def test_a_file_says_what_it_is_for() -> None:
    assert KEY.file == "tensorrt-11.4-sm86-cuda13-fp16-0123abcd.engine"
    assert AHEAD.file == "tensorrt-11.4-sm86-cudaany-fp16-0123abcd.engine"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"flavour": "tensorrt_rtx"}, "module tensorrt instead of tensorrt_rtx"),
        ({"version": "10.9"}, "version 11.4 instead of 10.9"),
        ({"capability": "8.9"}, "compute capability 8.6 instead of 8.9"),
        ({"driver": 12}, "CUDA driver 13 instead of 12"),
        ({"precision": "int8"}, "precision fp16 instead of int8"),
        ({"profile": "00000000"}, "profiles 0123abcd instead of 00000000"),
    ],
)
def test_an_engine_for_something_else(change: dict[str, Any], reason: str) -> None:
    assert KEY.unlike(replace(KEY, **change)) == reason
    assert KEY.unlike(KEY) == ""
    # Built ahead, without a driver: any will do.
    assert AHEAD.unlike(KEY) == ""


def test_capabilities() -> None:
    check_capability(RTX, "12.0", "fp8")
    with pytest.raises(SettingsError, match=r"no engine for compute capability '9.0'; known: 7.5, 8.9, 12.0"):
        check_capability(RTX, "9.0", "fp16")
    with pytest.raises(
        SettingsError, match=r"bf16 needs a GPU of compute capability 8.0 or more, not 7.5: choose fp16"
    ):
        check_capability(RTX, "7.5", "bf16")


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The capabilities that engines were built for, in order."""
    made: list[str] = []

    def build(trt: Any, model: bytes, key: Key, *rest: Any) -> bytes:
        made.append(key.capability)
        return b"built for " + key.capability.encode()

    monkeypatch.setattr(plans, "build", build)
    return made


def test_a_shipped_engine_is_taken(builds: list[str], tmp_path: Path) -> None:
    shipped = {replace(KEY, capability="8.9"): b"other", KEY: b"mine"}
    assert fitting(RTX, b"model", KEY, PROFILES, shipped=shipped, cache=tmp_path) == b"mine"
    assert builds == []


def test_a_stale_engine_is_built_anew_loudly_and_once(
    builds: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def find(model: bytes = b"model") -> bytes:
        return fitting(RTX, model, KEY, PROFILES, shipped={replace(KEY, version="11.3"): b"old"}, cache=tmp_path)

    with caplog.at_level(logging.WARNING):
        assert find() == b"built for 8.6"
        assert "fits (one has version 11.3 instead of 11.4): building one from its ONNX file" in caplog.text
        caplog.clear()
        assert find() == b"built for 8.6" and builds == ["8.6"] and not caplog.text
        assert find(b"another model") and builds == ["8.6", "8.6"]
        path = tmp_path / "engines" / hashlib.sha256(b"model").hexdigest()[:16] / KEY.file
        path.write_bytes(b"half of it")
        assert find() == b"built for 8.6" and len(builds) == 3
        assert f"{KEY.file} is damaged" in caplog.text
    assert not list(tmp_path.rglob("*.part"))


def test_a_cache_that_cannot_be_written(builds: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    found = fitting(RTX, b"model", KEY, PROFILES, shipped={}, cache=tmp_path / "file")
    assert found == b"built for 8.6"
    assert "fits (it has none)" in caplog.text and "set ATTAR_CACHE to a writable folder" in caplog.text


def test_measurements_are_kept(tmp_path: Path) -> None:
    taken: list[bytes] = []
    shapes: list[Any] = []
    config = SimpleNamespace(
        create_timing_cache=lambda known: known,
        set_timing_cache=lambda cache, ignore: taken.append(cache) or cache != b"of another GPU",
        get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"measured"),
        add_optimization_profile=lambda ranges: None,
    )
    network = SimpleNamespace(num_inputs=1, get_input=lambda i: SimpleNamespace(name="input_ids"))
    ranges = SimpleNamespace(set_shape=lambda *given: shapes.append(given))
    builder = SimpleNamespace(
        create_network=lambda flags: network, create_builder_config=lambda: config,
        create_optimization_profile=lambda: ranges, build_serialized_network=lambda *given: b"engine",
    )  # fmt: skip
    trt: Any = ModuleType("tensorrt")
    trt.__version__, trt.Builder, trt.NetworkDefinitionCreationFlag = "11.4", lambda log: builder, None
    trt.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
    trt.OnnxParser = lambda network, log: SimpleNamespace(parse=lambda model: True)
    trt.ILogger = type("ILogger", (), {"__init__": lambda self: None})
    for expected in ([b""], [b"measured"]):
        taken.clear()
        assert plans.build(trt, b"model", KEY, PROFILES, tmp_path) == b"engine" and taken == expected
    assert shapes[0] == ("input_ids", (1, 1), (2, 6), (4, 8))
    (tmp_path / "tensorrt-11.4-sm86.timings").write_bytes(b"of another GPU")
    taken.clear()
    plans.build(trt, b"model", KEY, PROFILES, tmp_path)
    assert taken == [b"of another GPU", b""]


def test_what_a_bundle_holds() -> None:
    record = {"precision": "fp16", "profiles": [vars(PROFILES[0])], "engines": [vars(KEY)]}
    contents = {MODEL: b"", GOLDEN: b"", RECORD: json.dumps(record).encode(), KEY.file: b"engine"}
    assert read_record(contents) == ("fp16", PROFILES, (KEY,))
    with pytest.raises(BundleError, match=r"lists no tensorrt.onnx: `attar tensorrt` adds"):
        read_record({})
    with pytest.raises(BundleError, match=f"names {KEY.file}, which the bundle does not list"):
        read_record({k: v for k, v in contents.items() if k != KEY.file})
    with pytest.raises(BundleError, match=r"tensorrt.json cannot be read: KeyError\('profiles'\)"):
        read_record({**contents, RECORD: b"{}"})


def test_loading_for_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tiny_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match=r"lists no tensorrt.onnx"):
        attar.load(path, engine="tensorrt")
    record = {"precision": "fp16", "profiles": [vars(PROFILES[0])], "engines": []}
    bundle = Bundle.read(path)
    given = {**bundle.contents, MODEL: b"", GOLDEN: b"", RECORD: json.dumps(record).encode()}
    monkeypatch.setattr(Bundle, "read", lambda path: replace(bundle, contents=given))

    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(plans, "flavour", lambda: RTX)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(SettingsError, match=r"no NVIDIA driver was found here .*load the bundle without engine="):
        attar.load(path, engine="tensorrt")
    with pytest.raises(SettingsError, match="takes no threads"):
        attar.load(path, engine="tensorrt", threads=1)
    with pytest.raises(SettingsError, match="engine must be one of onnx, openvino, tensorrt, auto, not 'tf'"):
        attar.load(path, engine="tf")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "FLAVOURS", ("no_such_tensorrt",))
    with pytest.raises(MissingExtraError, match=r"attar\[tensorrt\]"):
        plans.flavour()


def test_a_device_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tiny_bundle(tmp_path / "b")
    with pytest.raises(SettingsError, match="device of onnx must be one of cpu, cuda, tensorrt, not 'tpu'"):
        attar.load(path, device="tpu")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(SettingsError, match=r"has CPUExecutionProvider alone: .*attar\[gpu\]"):
        attar.load(path, device="cuda")
    # A machine with CUDA alone has no TensorRT.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(
        SettingsError, match=r"'tensorrt' was asked for, and this ONNX Runtime has CUDAExecutionProvider"
    ):
        attar.load(path, device="tensorrt")


def test_a_provider_in_name_only_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA as available where it is not, and runs such a session on the CPU without a word."""
    model = Bundle.read(make_tiny_bundle(tmp_path / "b")).contents["model.onnx"]
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(
        ort, "InferenceSession", lambda model, options, providers: real(model, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(AttarError, match="was asked for, and the session runs on CPUExecutionProvider"):
        OnnxEngine(model, device="cuda")


def placed(nodes: list[tuple[str, str, str]]) -> Any:
    """Stands for a session that says of nodes (name, operator, provider) where they run."""
    parts = [
        SimpleNamespace(
            ep_name=place, get_nodes=lambda name=name, kind=kind: [SimpleNamespace(name=name, op_type=kind)]
        )
        for name, kind, place in nodes
    ]
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    return SimpleNamespace(get_providers=lambda: providers, get_provider_graph_assignment_info=lambda: parts)


def test_nodes_on_the_cpu_are_refused(tmp_path: Path) -> None:
    nodes = [("a", "MatMul", "CUDA"), ("b", "Shape", "CPU"), ("c", "MatMulIntegerToFloat", "CPU")]
    assert misplaced(nodes, ["CUDA"]) == ["c (MatMulIntegerToFloat)"]
    # The placement that ONNX Runtime itself reports, of a session that only says to be on the GPU.
    model = Bundle.read(make_tiny_bundle(tmp_path / "b")).contents["model.onnx"]
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
    check_placement(session, "cpu")
    liar = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=session.get_provider_graph_assignment_info,
    )
    with pytest.raises(SettingsError, match=r"3 nodes would run on the CPU \(.*Mul.*export\s+without int8"):
        check_placement(liar, "cuda")
    # TensorRT may leave nodes to CUDA, but not all of them.
    mixed = [("a", "MatMul", "CUDAExecutionProvider"), ("b", "Shape", "CPUExecutionProvider")]
    check_placement(placed([*mixed, ("c", "Softmax", "TensorrtExecutionProvider")]), "tensorrt")
    with pytest.raises(
        SettingsError, match=r"TensorRT would take no node: load with device=.cuda., or .*attar tensorrt"
    ):
        check_placement(placed(mixed), "tensorrt")
    with pytest.raises(SettingsError, match=r"1 nodes would run on the CPU \(d \(MatMul\)\)"):
        check_placement(placed([*mixed, ("d", "MatMul", "CPUExecutionProvider")]), "tensorrt")
    with pytest.raises(SettingsError, match="does not tell what runs on 'cuda': upgrade onnxruntime-gpu"):
        check_placement(SimpleNamespace(get_providers=liar.get_providers), "cuda")
