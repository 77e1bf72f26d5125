"""Models and tokenizers that only the maker of a bundle can put there, with hashes that are right: an error, no more.

What cannot be refused, because it is a valid model, is in README.md, "What a bundle may do".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import attar
from attar.runtime.errors import BundleError
from tests.fixtures_bundle import make_tiny_bundle, tiny_model, tiny_tokenizer
from tests.runtime.attacks.hostile import files_of, load_limited, rehashed, write


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("sound") / "bundle")


def hostile(sound: Path, target: Path, **changed: bytes | dict[str, Any]) -> Path:
    return write(rehashed(files_of(sound), **changed), target / "hostile")


def refused(path: Path, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        attar.load(path, threads=1)


def deep_model(depth: int) -> bytes:
    """An If in an If in an If, written by hand: protobuf's own writer would not go so deep."""
    model = onnx.load_from_string(tiny_model())
    inner = helper.make_graph([helper.make_node("Identity", ["scale"], ["x"])], "g", [], [])
    node = helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner).SerializeToString()
    for _ in range(depth):
        graph = field(1, node) + field(2, b"g")
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        node = field(1, b"c") + field(2, b"x") + field(4, b"If") + field(5, attribute)
    return model.SerializeToString() + field(7, field(1, node))


def field(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_graphs_in_graphs(sound: Path, tmp_path: Path) -> None:
    refused(hostile(sound, tmp_path, model_onnx=deep_model(2000)), r"cannot load model\.onnx")


def with_tensor(dims: list[int]) -> bytes:
    model = onnx.load_from_string(tiny_model())
    model.graph.initializer[0].dims[:] = dims
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("dims", [[2**40], [2**62, 2**62], [2**31, 2**31, 2**31], [-1], [2**63 - 1, 2]])
def test_a_tensor_larger_than_its_bytes(dims: list[int], sound: Path, tmp_path: Path) -> None:
    refused(hostile(sound, tmp_path, model_onnx=with_tensor(dims)), r"cannot load model\.onnx")


def making(shape: list[int]) -> bytes:
    """A graph that makes a tensor of its own, which takes a few bytes to ask for."""
    model = onnx.load_from_string(tiny_model())
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.array(shape), "shape"))
    made = helper.make_node("ConstantOfShape", ["shape"], ["made"])
    total = helper.make_node("ReduceSum", ["made"], ["zero"], keepdims=0)
    last = model.graph.node[-1]
    last.output[0] = "before"
    added = helper.make_node("Add", ["before", "zero"], ["logits"])
    for node in (made, total, added):
        model.graph.node.add().CopyFrom(node)
    return bytes(model.SerializeToString())


def test_memory_that_a_graph_asks_for(sound: Path, tmp_path: Path) -> None:
    """64 GiB where 1 GiB may be had: the process lives on, and says why."""
    assert attar.load(hostile(sound, tmp_path, model_onnx=making([4])), threads=1)("a good film").label == "positive"
    (tmp_path / "large").mkdir()
    said = load_limited(sound, hostile(sound, tmp_path / "large", model_onnx=making([1 << 34])))
    assert said.startswith("refused: "), said


def tokenizer_with(**parts: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(tiny_tokenizer().to_str())
    return record | parts


def nested(depth: int) -> bytes:
    """A normalizer of a normalizer of a normalizer."""
    text = json.dumps(tokenizer_with(normalizer="HERE"))
    inner = '{"type": "Sequence", "normalizers": [' * depth + '{"type": "Lowercase"}' + "]}" * depth
    return text.replace('"HERE"', inner).encode()


def test_normalizers_in_normalizers(sound: Path, tmp_path: Path) -> None:
    refused(hostile(sound, tmp_path, tokenizer_json=nested(100_000)), r"tokenizer\.json cannot be read")


def test_ids_beyond_the_model(sound: Path, tmp_path: Path) -> None:
    """A vocabulary of few words and the largest id that there is."""
    record = tokenizer_with()
    record["model"]["vocab"]["good"] = 2**32 - 1
    refused(hostile(sound, tmp_path, tokenizer_json=record), "golden inputs cannot be replayed")


def test_a_vocabulary_without_the_unknown_word(sound: Path, tmp_path: Path) -> None:
    record = tokenizer_with()
    del record["model"]["vocab"]["[UNK]"]
    refused(hostile(sound, tmp_path, tokenizer_json=record), r"tokenizer\.json cannot be worked with|do not reproduce")


def test_an_added_token_that_panics(sound: Path, tmp_path: Path) -> None:
    """The library panics, which is no `Exception`, where a template names a token that is not there."""
    record = tokenizer_with()
    record["post_processor"]["single"][0]["SpecialToken"]["id"] = "[NO]"
    refused(hostile(sound, tmp_path, tokenizer_json=record), r"tokenizer\.json cannot be")


def test_an_expression_that_takes_for_ever(sound: Path, tmp_path: Path) -> None:
    """(a+)+$ on a row of a's: 2^60 ways to split them, and the library gives up by itself."""
    record = tokenizer_with(normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""})
    golden = json.loads((sound / "golden.json").read_text())
    golden["texts"][0] = "a" * 60 + "!"
    path = hostile(sound, tmp_path, tokenizer_json=record, golden_json=golden)
    assert load_limited(sound, path).startswith(("refused: golden inputs do not reproduce", "refused: tokenizer.json"))


@pytest.mark.parametrize(
    "golden",
    [{}, [], {"texts": [], "outputs": []}, {"texts": ["a"], "outputs": []}, {"texts": [3], "outputs": [{}]},
     {"texts": 3},
     {"texts": ["a"], "outputs": [{"logits": [[1, 2, 3]]}]}, {"texts": ["a"], "outputs": [{"logits": "x"}]},
     {"texts": ["a"], "outputs": [{"logits": [[None, 0]]}]}, {"texts": ["a"], "outputs": [{"other": [[0.5, 0.5]]}]},
     {"texts": ["a good film"], "outputs": [{"logits": [[float("nan"), 0.7]]}]}],
)  # fmt: skip
def test_golden_inputs_that_are_none(golden: Any, sound: Path, tmp_path: Path) -> None:
    """Without any the bundle would prove nothing."""
    path = hostile(sound, tmp_path, golden_json=json.dumps(golden).encode())
    with pytest.raises(attar.AttarError, match=r"golden inputs|no golden inputs|is a int, not a string"):
        attar.load(path, threads=1)


def test_golden_inputs_in_lists_in_lists(sound: Path, tmp_path: Path) -> None:
    refused(hostile(sound, tmp_path, golden_json=b"[" * 100_000), "golden inputs cannot be replayed")


def test_outputs_of_another_size(sound: Path, tmp_path: Path) -> None:
    """Three labels for two numbers."""
    model = onnx.load_from_string(tiny_model())
    scale = next(t for t in model.graph.initializer if t.name == "scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "scale"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    refused(
        hostile(sound, tmp_path, model_onnx=model.SerializeToString()), r"has the shape \(3,\) where its task reads"
    )


def test_outputs_of_another_type_or_name(sound: Path, tmp_path: Path) -> None:
    model = onnx.load_from_string(tiny_model())
    model.graph.node[-1].output[0] = model.graph.output[0].name = "other"
    refused(hostile(sound, tmp_path, model_onnx=model.SerializeToString()), "golden inputs cannot be replayed")


def test_a_padding_token_that_is_not_there(sound: Path, tmp_path: Path) -> None:
    files = files_of(sound)
    files["manifest.json"] = files["manifest.json"].replace(b'"pad_id": 0', b'"pad_id": 999')
    refused(write(rehashed(files), tmp_path / "padded"), r"tokenizer\.json has no token 999")


def test_a_graph_for_single_texts_alone(sound: Path, tmp_path: Path) -> None:
    """Golden inputs reproduce one by one, and a batch fails: it fails at load."""
    model = onnx.load_from_string(tiny_model())
    model.graph.initializer.add().CopyFrom(onnx.numpy_helper.from_array(np.array([1, 2]), "alone"))
    model.graph.node[-1].output[0] = "free"
    model.graph.node.add().CopyFrom(helper.make_node("Reshape", ["free", "alone"], ["logits"]))
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    refused(hostile(sound, tmp_path, model_onnx=model.SerializeToString()), "golden inputs cannot be replayed")
