"""A tiny bundle for tests: a bag of words whose answer is easy to foresee."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from attar.runtime.bundle import Manifest, write_bundle
from attar.runtime.tasks.base import softmax
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tokenizer import Tokenizer as Reader
from attar.runtime.tokenizer import pad

WORDS = ("[PAD]", "[UNK]", "[CLS]", "a", "the", "film", "good", "great", "fine", "bad", "awful", "dull")
LABELS = ("negative", "positive")
GOLDEN = ("a good film", "the awful dull film", "great", "something unknown")
MAX_LENGTH, MAX_BATCH = 16, 32


def make_tiny_bundle(folder: Path, **manifest: Any) -> Path:
    """Writes a bundle to `folder` (`manifest` overrides fields) and returns it.

    "good", "great" and "fine" add 1 to "positive"; "bad", "awful" and "dull" to "negative".
    """
    tokenizer, model = tiny_tokenizer().to_str().encode(), tiny_model()
    reader, session = Reader(tokenizer, MAX_LENGTH), ort.InferenceSession(model)
    rows = [pad(reader.encode([text]).ids, 0) for text in GOLDEN]
    feeds = [{"input_ids": ids, "attention_mask": mask} for ids, mask in rows]
    outputs = [{"logits": softmax(session.run(None, feed)[0]).tolist()} for feed in feeds]
    contents = {
        "model.onnx": model,
        "tokenizer.json": tokenizer,
        "golden.json": json.dumps({"texts": GOLDEN, "outputs": outputs}).encode(),
        "README.md": b"# tiny\n",
    }
    fields: dict[str, Any] = {
        "task": TextClassification(LABELS, MAX_LENGTH),
        "files": {},
        "limits": {"max_length": MAX_LENGTH, "max_batch": MAX_BATCH},
        "name": "tiny",
    }
    write_bundle(folder, Manifest(**(fields | manifest)), contents)
    return folder


def tiny_tokenizer() -> Tokenizer:
    """Lower-cased words, [CLS] in front."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", WORDS.index("[CLS]"))]
    )
    return tokenizer


def tiny_model() -> bytes:
    """Embedding (V, 2), masked sum over the text, a scaling matrix (2, 2): logits (B, 2)."""
    table = np.zeros((len(WORDS), 2), dtype=np.float32)
    table[[WORDS.index(w) for w in ("bad", "awful", "dull")], 0] = 1
    table[[WORDS.index(w) for w in ("good", "great", "fine")], 1] = 1
    constants = {
        "table": table,
        "scale": np.eye(2, dtype=np.float32),
        "one": np.array([1]),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "two"], ["wide"]),
        helper.make_node("Mul", ["rows", "wide"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "scale"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
