"""A folder that the ORTModelFor... classes of optimum-onnx load: model.onnx, config.json and the tokenizer's files."""

from __future__ import annotations

from pathlib import Path

from attar.export.folders.files import graph_config, reading, write_json, write_tokenizer
from attar.export.folders.graph import SUFFIXES, adapted, typed
from attar.export.folders.source import Made, Source


def write(source: Source, folder: Path) -> Made:
    """Fill the folder."""
    source.require("optimum", tuple(SUFFIXES))
    own = source.model()
    model, done = adapted(own, source.task)
    (folder / "model.onnx").write_bytes(model)
    write_json(folder / "config.json", graph_config(source))
    write_tokenizer(source, folder, typed=typed(own))
    name = "ORTModel" + SUFFIXES[source.task.kind].replace("Model", "ForFeatureExtraction")
    how = f"""    from optimum.onnxruntime import {name}
    from transformers import AutoTokenizer

    model = {name}.from_pretrained("path/to/this/folder")
    tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")

config.json names a family only because the class asks for one: the graph has sizes of its own.{reading(source.task)}"""
    return Made(how, other=f"the model.onnx here: {done}") if done else Made(how, "model.onnx")
