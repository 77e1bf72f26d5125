"""An ONNX file that the engine must not, or cannot, load: refused before any parser opens another file."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import attar
from attar.cli import main
from attar.runtime.bundle import MANIFEST, SEAL
from attar.runtime.engines import model_file
from attar.runtime.engines.model_file import external_files
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.errors import BundleError
from tests.fixtures_bundle import make_tiny_bundle, tiny_model


def test_every_way_to_a_tensor_is_walked() -> None:
    """The table of fields against onnx's own schema: every field through which a message can hold a tensor's entry."""
    messages = {m.name: m for m in onnx.ModelProto.DESCRIPTOR.file.message_types_by_name.values()}
    reaching = {"TensorProto"}
    while True:
        more = {
            name for name, m in messages.items()
            if any(f.message_type is not None and f.message_type.name in reaching for f in m.fields)
        }  # fmt: skip
        if more <= reaching:
            break
        reaching |= more
    wanted = {
        name: {f.number: f.message_type.name for f in messages[name].fields
               if f.message_type is not None and f.message_type.name in reaching}
        for name in reaching - {"TensorProto"}
    }  # fmt: skip
    entry = messages["TensorProto"].fields_by_name["external_data"]
    wanted["TensorProto"] = {entry.number: entry.message_type.name}
    assert {name: dict(fields) for name, fields in model_file.INSIDE.items()} == wanted


def keep_elsewhere(tensor: TensorProto, location: str) -> None:
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"offset": "0", "location": location, "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)


def elsewhere(location: str) -> bytes:
    """The tiny model with its table in another file."""
    model = onnx.load_from_string(tiny_model())
    keep_elsewhere(model.graph.initializer[0], location)
    return bytes(model.SerializeToString())


def test_where_weights_hide() -> None:
    """In an initializer, the attribute of a node, a graph inside a node, a function, and sparse weights."""
    model = onnx.load_from_string(tiny_model())
    keep_elsewhere(model.graph.initializer[0], "a")
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]))
    constant.attribute[0].t.data_location = TensorProto.EXTERNAL
    constant.attribute[0].t.external_data.add(key="location", value="b")
    inner = helper.make_graph([constant], "inner", [], [])
    model.graph.node.add().CopyFrom(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    function = model.functions.add()
    function.node.add().CopyFrom(constant)
    function.node[0].attribute[0].t.external_data[0].value = "c"
    model.graph.sparse_initializer.add().values.external_data.add(key="location", value="d")
    assert external_files(model.SerializeToString()) == {"a", "b", "c", "d"}
    assert external_files(tiny_model()) == set()


def told_by_onnx(message: Any) -> set[str]:
    """The same by onnx's own parser."""
    found: set[str] = set()
    if isinstance(message, TensorProto):
        found.update(entry.value for entry in message.external_data if entry.key == "location")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "extend") else [value]:
                found |= told_by_onnx(part)
    return found


@given(st.data())
def test_a_damaged_file_hides_nothing(data: st.DataObject) -> None:
    """Whatever bytes change: what onnx would read of other files is found, or the file is refused."""
    changed = bytearray(elsewhere("secret"))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        wanted = told_by_onnx(onnx.load_from_string(bytes(changed)))
    except (DecodeError, UnicodeDecodeError):
        wanted = set()
    with suppress(BundleError):
        assert wanted <= external_files(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        external_files(content)
    except BundleError as error:
        assert "not an ONNX file" in str(error)


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "/etc/passwd", "secret.bin", "./weights.bin", "*/_ORT_MEM_ADDR_/*", "a/../weights.bin"],
)
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the file is there, in the working folder: only what the manifest lists is read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(96))
    with pytest.raises(BundleError, match=r"keeps weights in .* only files that the bundle's manifest lists"):
        OnnxEngine(elsewhere(location), threads=1, files={"weights.bin": bytes(96)})
    bundle = make_tiny_bundle(tmp_path / "b")
    replaced(bundle, "model.onnx", elsewhere(location))
    with pytest.raises(BundleError, match="export the bundle again"):
        attar.load(bundle)
    assert main(["verify", str(bundle)]) == 2


def replaced(bundle: Path, name: str, content: bytes) -> None:
    """Another file in the bundle with a manifest and a seal that agree: what an attacker would write."""
    (bundle / name).write_bytes(content)
    record: dict[str, Any] = json.loads((bundle / MANIFEST).read_text())
    record["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    raw = json.dumps(record).encode()
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SEAL).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")


def test_weights_of_the_bundle_are_read(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b")
    table = onnx.load_from_string(tiny_model()).graph.initializer[0].raw_data
    replaced(bundle, "weights.bin", table)
    replaced(bundle, "model.onnx", elsewhere("weights.bin"))
    assert attar.load(bundle)("a good film").label == "positive"
    (bundle / "weights.bin").write_bytes(table[:-1] + b"\x01")
    with pytest.raises(BundleError, match=r"weights\.bin was altered"):
        attar.load(bundle)


def test_weights_that_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"ONNX Runtime \S+ cannot load model\.onnx"):
        OnnxEngine(elsewhere("weights.bin"), threads=1, files={"weights.bin": bytes(10)})


def model_of(op: str, *, domain: str = "", opset: int = 18, ir: int = 9) -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("mine", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (model_of("Strange"), r"its operator 'Strange' is not in opset 18 as ONNX Runtime \S+ knows it; upgrade"),
        (model_of("Strange", domain="com.microsoft"), "'Strange' of the domain 'com.microsoft' is unknown to ONNX"),
        (model_of("Strange", domain="mine"), "its operator 'Strange' of the domain 'mine' is unknown to ONNX Runtime"),
        (model_of("Relu", opset=999), r"needs opset 999 of ai\.onnx, ONNX Runtime \S+ knows opsets up to \d+; upgrade"),
        (model_of("Relu", ir=999), r"it has IR version 999, ONNX Runtime \S+ reads up to \d+; upgrade onnxruntime, or"),
        (b"no model at all", "model.onnx is not an ONNX file; copy the bundle again, or export it again"),
        (tiny_model()[:-5], "model.onnx is not an ONNX file"),
        (b"\x08" + b"\xff" * 12, "model.onnx is not an ONNX file"),
        (b"", "cannot load model.onnx"),
    ],
    ids=["operator", "microsoft", "domain", "opset", "ir", "text", "cut", "number", "empty"],
)  # fmt: skip
def test_a_model_that_the_engine_does_not_know(model: bytes, words: str, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "b")
    replaced(bundle, "model.onnx", model)
    with pytest.raises(BundleError, match=words):
        attar.load(bundle)


def test_an_engine_that_takes_no_weights_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime before 1.24: never a file that nobody hashed instead."""
    monkeypatch.delattr(ort.SessionOptions, "add_external_initializers_from_files_in_memory")
    with pytest.raises(
        BundleError, match=r"ONNX Runtime \S+ cannot take from memory: pip install 'onnxruntime>=1\.24'"
    ):
        OnnxEngine(elsewhere("weights.bin"), threads=1, files={"weights.bin": bytes(96)})
