"""An OpenVINO IR, by OpenVINO's own converter, with the files that classes of transformers' kind read beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attar.export.bundle import GOLDEN, GOLDEN_PAIRS
from attar.export.folders.files import graph_config, reading, write_json, write_tokenizer
from attar.export.folders.graph import SUFFIXES, adapted, typed
from attar.export.folders.source import Made, Source
from attar.export.parity import TOLERANCE
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.engines.openvino import import_quietly
from attar.runtime.errors import ParityError, SettingsError
from attar.runtime.tokenizer import Ids, pad

WEIGHTS = True


def write(source: Source, folder: Path) -> Made:
    """Fill the folder with the fp32 model: the converter has no translation of our int8 nodes."""
    openvino = import_quietly()
    source.require("openvino", tuple(SUFFIXES))
    model, done = adapted(source.fp32(), source.task)
    path = folder / "openvino_model.xml"
    (folder / "model.onnx").write_bytes(model)
    try:
        found = openvino.Core().read_model(folder / "model.onnx")  # convert_model does this and reports each use
    except Exception as error:  # the library raises many types; their first lines say little
        raise SettingsError(f"OpenVINO {openvino.__version__} cannot convert this network: {error}") from error
    openvino.save_model(found, path, compress_to_fp16=False)
    (folder / "model.onnx").unlink()
    _check(source, model, path)
    write_json(folder / "config.json", graph_config(source))
    write_tokenizer(source, folder, typed=typed(model))
    how = f"""    import openvino
    model = openvino.compile_model("path/to/this/folder/openvino_model.xml", "CPU")
    outputs = model({{"input_ids": ids, "attention_mask": mask{', "token_type_ids": types' if typed(model) else ""}}})

Weights are fp32, and its outputs are those of ONNX Runtime within {TOLERANCE:g}. On processors with bf16 OpenVINO
computes in bf16 unless it is told `{{"INFERENCE_PRECISION_HINT": "f32"}}`.{reading(source.task)}"""
    return Made(how, other="the IR here, which is in fp32" + (f" ({done})" if done else ""))


def _check(source: Source, model: bytes, path: Path) -> None:
    """`ParityError` where the IR computes other outputs than ONNX Runtime, alone or in a padded batch."""
    openvino = import_quietly()
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    engine = OnnxEngine(model)
    task = source.task
    encoded = task.encode(
        task.reader(source.tokenizer, source.manifest.pad_id), list(GOLDEN_PAIRS if task.pairs else GOLDEN)
    )
    for rows in (slice(0, 1), slice(None)):
        ids, mask = pad(encoded.ids[rows], source.manifest.pad_id)
        types = None if encoded.types is None else pad(encoded.types[rows], 0)[0]
        for name, wanted in engine.run(ids, mask, types).items():
            found = compiled(_feeds(model, ids, mask, types))[name]
            where = mask.astype(bool) if wanted.ndim > 1 and wanted.shape[1] == ids.shape[1] else slice(None)
            error = _difference(wanted[where], found[where])
            if not error <= TOLERANCE:
                raise ParityError(
                    f"OpenVINO {openvino.__version__} computes other {name} of this network than ONNX Runtime: by "
                    f"{error:.2g}, at most {TOLERANCE}. Package it as ONNX instead (--to optimum)"
                )


def _feeds(model: bytes, ids: Ids, mask: Ids, types: Ids | None) -> dict[str, Ids]:
    feeds = {"input_ids": ids, "attention_mask": mask}
    return {**feeds, "token_type_ids": np.zeros_like(ids) if types is None else types} if typed(model) else feeds


def _difference(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The largest, relative to the largest value, which counts as at least 1."""
    return float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))
