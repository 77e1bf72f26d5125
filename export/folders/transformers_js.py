"""A folder that transformers.js loads: onnx/model.onnx in fp32, onnx/model_quantized.onnx, config and tokenizer."""

from __future__ import annotations

from pathlib import Path

from attar.export.folders.files import graph_config, reading, write_json, write_tokenizer
from attar.export.folders.graph import SUFFIXES, adapted, typed
from attar.export.folders.source import Made, Source, quantized

WEIGHTS = True
PIPELINES = {"regression": "text-classification", "embeddings": "feature-extraction"}
"""What a kind is called there, where it is called otherwise."""


def write(source: Source, folder: Path) -> Made:
    """Fill the folder; of a quantized bundle alone there is no fp32 model to write."""
    source.require("transformers-js", tuple(SUFFIXES))
    own = source.model()
    graphs = {"q8": own} if quantized(source) else {"fp32": own}
    if source.student is not None:
        graphs["fp32"] = source.fp32()
    (folder / "onnx").mkdir()
    same, other = "", []
    for kind, graph in graphs.items():
        name = "onnx/model.onnx" if kind == "fp32" else "onnx/model_quantized.onnx"
        model, done = adapted(graph, source.task)
        (folder / name).write_bytes(model)
        if model == own:
            same = name
        else:
            other.append(f"{name} ({done or 'fp32'})")
    write_json(folder / "config.json", graph_config(source))
    # Only this class gives token types there; all else it takes from tokenizer.json.
    kind = "BertTokenizer" if typed(own) else "PreTrainedTokenizerFast"
    write_tokenizer(source, folder, typed=typed(own), kind=kind)
    pipeline = PIPELINES.get(source.task.kind, source.task.kind)
    kinds = " or ".join(f'dtype: "{kind}"' for kind in graphs)
    how = f"""    import {{ env, pipeline }} from "@huggingface/transformers";
    env.localModelPath = "path/above/this/folder";
    env.allowRemoteModels = false;
    const model = await pipeline("{pipeline}", "name-of-this-folder", {{ dtype: "{next(iter(graphs))}" }});

There is {kinds}. config.json names a family only because the library asks for one: the graph has sizes of
its own. A text of more than {source.task.max_length} tokens loses its closing mark there, so that its answer is not
attar's.{reading(source.task)}"""
    return Made(how, same, " and ".join(other))
