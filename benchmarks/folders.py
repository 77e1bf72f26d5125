"""Folders of `attar package`, each loaded by the system it is for: its outputs against those of the bundle.

python benchmarks/folders.py [--bundle DIR --student DIR] --peers PYTHON --kserve PYTHON --node DIR

A small random student of every kind of task, a pruned, a factorized and a quantized one, and the bundle given.
PYTHON: an interpreter with optimum-onnx 0.1.0, transformers 4.57 and tritonclient[grpc]; one with kserve. DIR: a
folder whose node_modules has @huggingface/transformers. OpenVINO is looked for in this interpreter. What is not given
is skipped and named. Printed: the largest difference to the bundle in ONNX Runtime, or of what is fp32 to the student
in PyTorch; of transformers.js both where there are both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = 12
"""How many texts each student is asked, before those that it must cut."""
JS = """
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
const [modules, folder, expected, dtype] = process.argv.slice(1);
const js = createRequire(modules + "/x.js")("@huggingface/transformers");
js.env.allowRemoteModels = false;
js.env.localModelPath = folder + "/..";
const name = folder.split("/").pop();
const { kind, texts } = JSON.parse(readFileSync(expected));
const type = {
  "token-classification": js.AutoModelForTokenClassification,
  "question-answering": js.AutoModelForQuestionAnswering,
  "embeddings": js.AutoModel,
}[kind] ?? js.AutoModelForSequenceClassification;
const tokenizer = await js.AutoTokenizer.from_pretrained(name);
const model = await type.from_pretrained(name, { dtype });
const found = [];
for (const text of texts) {
  const [a, b] = typeof text == "string" ? [text] : text;
  const out = await model(tokenizer(a, { text_pair: b ?? null, truncation: true }));
  const parts = kind == "question-answering" ? [out.start_logits, out.end_logits]
    : [out.sentence_embedding ?? out.logits];
  found.push(parts.map((t) => Array.from(t.data)));
}
if (typeof texts[0] == "string") {
  const tasks = { "regression": "text-classification", "embeddings": "feature-extraction" };
  const pipe = await js.pipeline(tasks[kind] ?? kind, name, { dtype });
  const options = kind == "embeddings" ? { pooling: "mean", normalize: true } : {};
  const answer = await pipe(texts[0], options);
  if (kind == "embeddings") found[0] = [Array.from(answer.data)];
}
console.log(JSON.stringify(found));
"""


def cases(scratch: Path) -> Iterator[tuple[str, Any, list[Any]]]:
    """Names, students and what they are asked; weights are random."""
    from dataclasses import replace

    import torch

    from attar.compress.quantize.plan import QuantPlan
    from attar.distill.encoder import LayerShape, resized
    from tests.models import KINDS, grow, inputs, make_student, sentences

    plain = [str(t) for t in sentences(PLAIN, seed=7).texts]
    for kind in KINDS:
        if kind == "multi-task":
            continue
        student = make_student(scratch / kind, "mpnet" if kind == "embeddings" else "bert", kind=kind)
        changes = {"text-classification": {"temperature": 1.7}, "regression": {"mean": 3.0, "scale": 2.0}}
        student = replace(student, task=replace(student.task, **changes.get(kind, {})))
        long = [] if student.task.kind in ("token-classification", "question-answering") else ["funny " * 90]
        yield kind, student, list(inputs(kind, (*plain, *long)))
        if kind != "text-classification":
            continue
        torch.manual_seed(5)
        uneven = (LayerShape(3, 8, 24), LayerShape(1, 8, 64))
        thin = (LayerShape(4, 8, 64, {"query": 4, "ffn_in": 8}), LayerShape(4, 8, 64))
        for name, layers in (("pruned", uneven), ("factorized", thin)):
            encoder = resized(student.transformer, layers)
            grow(encoder.layers)
            yield name, replace(student, encoder=encoder.eval()), plain
        yield "int8", replace(student, plan=QuantPlan().to_json()), plain


def wanted(model: Any, texts: list[Any]) -> list[list[list[float]]]:
    """For each text the outputs as a class of transformers names and means them, by a loaded bundle or a student."""
    from attar.export.folders.graph import affine

    task = model.task
    scale, shift = affine(task)
    encoded = model.encode(texts) if hasattr(model, "encoder") else task.encode(model.tokenizer, texts)
    assert len(encoded.ids) == len(texts), "a text of several windows"
    found = []
    for row in model.outputs(encoded)[task.heads[0].name]:
        parts = row.T if task.kind == "question-answering" else [row * scale + shift]
        found.append([np.ravel(part).astype(float).tolist() for part in parts])
    return found


def by_openvino(folder: Path) -> Any:
    """The IR, compiled in fp32, and the folder's tokenizer."""
    import openvino
    from transformers import AutoTokenizer

    expected = json.loads(folder.with_suffix(".json").read_text())
    compiled = openvino.compile_model(folder / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {"question-answering": ["start_logits", "end_logits"], "embeddings": ["sentence_embedding"]}
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    for text in expected["texts"]:
        given = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="np", truncation=True)
        out = compiled(dict(given))
        found.append([out[n].ravel().tolist() for n in names.get(expected["kind"], ["logits"])])
    return found


def by_node(modules: str, folder: Path) -> list[Any]:
    """transformers.js in each precision that the folder has, fp32 first."""
    found = []
    for name, dtype in (("model.onnx", "fp32"), ("model_quantized.onnx", "q8")):
        if (folder / "onnx" / name).is_file():
            expected = str(folder.with_suffix(".json"))
            command = ["node", "--input-type=module", "-e", JS, modules, str(folder), expected, dtype]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def by_peer(python: str, to: str, places: list[Path], scratch: Path) -> Any:
    """What folders_peers.py gives in another environment, for every folder."""
    out = scratch / f"{to}.found"
    script = Path(__file__).with_name("folders_peers.py")
    command = [python, str(script), to, str(out), *(str(p) for f in places for p in (f, f.with_suffix(".json")))]
    done = subprocess.run(command, capture_output=True, env=dict(os.environ, PYTHONPATH="", HF_HUB_OFFLINE="1"))
    if done.returncode:
        raise SystemExit(f"{to}: {done.stderr.decode()}")
    return [[found] for found in json.loads(out.read_text())]


def gap(found: Any, outputs: Any) -> float:
    """The largest difference, relative to the largest value of its output, which counts as at least 1."""
    pairs = [(np.array(a), np.array(b)) for x, y in zip(found, outputs, strict=True) for a, b in zip(x, y, strict=True)]
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in pairs)


def asked(args: argparse.Namespace, to: str, places: list[Path], scratch: Path) -> Any:
    """For each folder what the system gives, of transformers.js in each precision; nothing where it is not here."""
    if to == "openvino":
        return [[by_openvino(folder)] for folder in places]
    if to == "transformers-js":
        return [by_node(args.node, folder) for folder in places] if args.node else []
    python = args.kserve if to == "kserve" else args.peers
    return by_peer(python, to, places, scratch) if python else []


def packaged(to: str, bundles: list[tuple[Path, Path, list[Any]]], scratch: Path) -> dict[str, str]:
    """Writes the folders of one format, and what they should compute; why a bundle was refused, by its name."""
    from attar.export.folders.package import package
    from attar.export.folders.source import quantized, read_source
    from attar.runtime.errors import AttarError
    from attar.runtime.model import load

    refused = {}
    for bundle, student, texts in bundles:
        if to == "transformers-js":
            texts = texts[:PLAIN]  # it cuts a long text's closing mark off, which no other does
        model = load(bundle, threads=1)
        outputs = [wanted(model, texts)]
        if to == "triton" and model.task.kind == "text-classification":
            outputs = [[[list(answer.scores.values())] for answer in model(texts)]]
        weighs = to in ("openvino", "huggingface", "transformers-js")
        source = read_source(bundle, student if weighs else None)
        if source.student is not None:
            shipped = outputs if to == "transformers-js" and quantized(source) else []
            outputs = [wanted(source.student, texts), *shipped]
        expected = {"kind": model.task.kind, "texts": texts, "outputs": outputs}
        folder = scratch / to / bundle.stem
        try:
            package(source, to, folder)
            folder.with_suffix(".json").write_text(json.dumps(expected))
        except AttarError as error:
            refused[bundle.stem] = f"refused: {error}"
    return refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--bundle", "--student", "--peers", "--kserve", "--node"):
        parser.add_argument(name)
    args = parser.parse_args()
    from attar.export.bundle import write
    from attar.export.folders import FORMATS

    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        bundles = []
        for name, student, texts in cases(scratch):
            paths = scratch / f"{name}.bundle", scratch / f"{name}.student"
            student.save(paths[1])
            write(student, paths[0], name=name)
            bundles.append((*paths, texts))
        if args.bundle:
            (scratch / "given.bundle").symlink_to(Path(args.bundle).resolve())
            bundles.append((scratch / "given.bundle", Path(args.student), bundles[0][2]))
        for to in FORMATS:
            if to == "openvino" and not find_spec("openvino"):
                print(f"{to}: skipped")
                continue
            refused = packaged(to, bundles, scratch)
            places = [scratch / to / b.stem for b, _, _ in bundles if b.stem not in refused]
            found = asked(args, to, places, scratch)
            for folder, each in zip(places, found, strict=False):
                outputs = json.loads(folder.with_suffix(".json").read_text())["outputs"]
                told = [
                    "read whole" if to == "kserve" else f"{gap(*pair):.1e}" for pair in zip(each, outputs, strict=True)
                ]
                print(f"{to}: {folder.name}: {', '.join(told)}", flush=True)
            for name, reason in {**refused, **({} if found else {"all others": "skipped"})}.items():
                print(f"{to}: {name}: {reason}", flush=True)


if __name__ == "__main__":
    main()
