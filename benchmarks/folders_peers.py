"""The other side of folders.py: what systems make of their folders. Needs no attar, only the system that is asked.

python benchmarks/folders_peers.py optimum|huggingface|triton|kserve FOUND.json FOLDER EXPECTED.json [FOLDER ...]

Writes, for each folder, the outputs of each text as lists of numbers; of kserve, which runs nothing here, none.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Expected = dict[str, Any]
Outputs = list[list[list[float]]]


def by_transformers(model: Any, folder: str, expected: Expected) -> Outputs:
    """The outputs of a model of transformers or optimum, text by text, by the tokenizer of the folder."""
    import torch
    from transformers import AutoTokenizer

    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for text in expected["texts"]:
        given = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt", truncation=True)
        with torch.no_grad():
            out = model(**given)
        if expected["kind"] == "embeddings":
            mean = out.last_hidden_state[0].mean(0)
            parts = [mean / mean.norm()]
        elif expected["kind"] == "question-answering":
            parts = [out.start_logits, out.end_logits]
        else:
            parts = [out.logits]
        found.append([part.numpy().ravel().tolist() for part in parts])
    return found


def optimum(folder: str, expected: Expected) -> Outputs:
    """By the ORTModel class for the kind."""
    from optimum import onnxruntime

    names = {"token-classification": "TokenClassification", "question-answering": "QuestionAnswering"}
    names["embeddings"] = "FeatureExtraction"
    name = f"ORTModelFor{names.get(expected['kind'], 'SequenceClassification')}"
    return by_transformers(getattr(onnxruntime, name).from_pretrained(folder), folder, expected)


def huggingface(folder: str, expected: Expected) -> Outputs:
    """By the class that config.json names, in PyTorch."""
    import transformers

    name = json.loads((Path(folder) / "config.json").read_text())["architectures"][0]
    return by_transformers(getattr(transformers, name).from_pretrained(folder).eval(), folder, expected)


class Tensor:
    """Triton's side of a Python model."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.as_numpy = name, lambda: array


def triton(folder: str, expected: Expected) -> Outputs:
    """By the steps of the ensemble's config.pbtxt, read with Triton's own protobuf; the server itself does not run."""
    import onnxruntime
    from google.protobuf import json_format, text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    backend: Any = types.ModuleType("triton_python_backend_utils")
    backend.Tensor, backend.InferenceResponse = Tensor, list
    backend.get_input_tensor_by_name = lambda request, name: next(t for t in request if t.name == name)
    sys.modules[backend.__name__] = backend
    configs = {
        p.parent.name: text_format.Parse(p.read_text(), ModelConfig()) for p in Path(folder).glob("*/config.pbtxt")
    }
    assert all(name == config.name for name, config in configs.items())
    runs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
    for name, config in configs.items():
        version = Path(folder) / name / "1"
        if config.backend == "python":
            code: dict[str, Any] = {"__file__": str(version / "model.py")}
            exec((version / "model.py").read_text(), code)
            model = code["TritonPythonModel"]()
            shown = json_format.MessageToDict(config, preserving_proto_field_name=True)
            model.initialize({"model_config": json.dumps(shown)})
            runs[name] = lambda given, model=model: {
                t.name: t.as_numpy() for t in model.execute([[Tensor(*item) for item in given.items()]])[0]
            }
        elif config.platform == "onnxruntime_onnx":
            session = onnxruntime.InferenceSession(str(version / "model.onnx"))
            assert {i.name for i in session.get_inputs()} == {i.name for i in config.input}
            runs[name] = lambda given, session=session: {
                o.name: a for o, a in zip(session.get_outputs(), session.run(None, given), strict=True)
            }
    (whole,) = (c for c in configs.values() if c.platform == "ensemble")
    return [ensemble(whole, configs, runs, text, expected) for text in expected["texts"]]


def ensemble(whole: Any, configs: Any, runs: Any, text: Any, expected: Expected) -> list[list[float]]:
    """One request through the steps, with the shapes that each model declares; the numbers of its answer."""
    parts = [text] if isinstance(text, str) else text
    held = {"TEXT": np.array([[part.encode() for part in parts]], dtype=object)}
    for step in whole.ensemble_scheduling.step:
        config = configs[step.model_name]
        found = runs[step.model_name]({inner: held[outer] for inner, outer in step.input_map.items()})
        for tensor in config.output:
            assert all(d in (-1, n) for d, n in zip(tensor.dims, found[tensor.name].shape[1:], strict=True)), tensor
        held |= {outer: found[inner] for inner, outer in step.output_map.items()}
    answer = {o.name: held[o.name] for o in whole.output}
    name = {"text-classification": "SCORES", "regression": "VALUE", "embeddings": "VECTOR"}[expected["kind"]]
    return [answer[name][0].tolist()]


def kserve(folder: str, expected: Expected) -> Outputs:
    """service.yaml as the clients of KServe and of Kubernetes read it: they know every field, and miss none."""
    import kserve.models
    import kubernetes.client
    import yaml
    from kserve import ApiClient, V1beta1InferenceService

    # KServe's reader looks for the types of Kubernetes among its own, and cannot read those of newer versions.
    kserve.models.V1ObjectMeta = kubernetes.client.V1ObjectMeta
    record = yaml.safe_load((Path(folder) / "service.yaml").read_text())
    for container in record["spec"]["predictor"].pop("containers"):
        reader = kubernetes.client.ApiClient()
        found = reader.deserialize(json.dumps(container), "V1Container", "application/json")
        assert reader.sanitize_for_serialization(found) == container
    found = ApiClient().deserialize(types.SimpleNamespace(data=json.dumps(record)), V1beta1InferenceService)
    assert ApiClient().sanitize_for_serialization(found) == record
    return []


def main() -> None:
    system, out, *places = sys.argv[1:]
    ask: Callable[[str, Expected], Outputs] = globals()[system]
    found = [ask(f, json.loads(Path(e).read_text())) for f, e in zip(places[::2], places[1::2], strict=True)]
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
