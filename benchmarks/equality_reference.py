"""The reference side of equality.py: what the pipelines of transformers answer. Needs torch and transformers alone.

python benchmarks/equality_reference.py REQUEST.json ANSWERS.json

The request holds the model folder, the task as attar.json has it, the texts, how attar reads them, and which variants
of the task to ask.
An answer holds, for each column, what must be `exact`ly equal and its `scores`; or why the text was `refused`.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

Found = dict[str, Any]
Ask = Callable[[Any], Found]
Columns = dict[str, Ask]


def remembered(model: Any) -> Any:
    """The model keeps its latest outputs: every variant asks about the same logits."""
    kept: dict[bytes, Any] = {}
    forward = model.forward

    @functools.wraps(forward)
    def once(*, input_ids: Tensor, **others: Any) -> Any:
        key = input_ids.numpy().tobytes() + others["attention_mask"].numpy().tobytes()
        if len(kept) > 512:
            kept.clear()
        if key not in kept:
            kept[key] = forward(input_ids=input_ids, **others)
        return kept[key]

    model.forward = once
    return model


def load(class_name: str, folder: str, **options: Any) -> Any:
    model = getattr(transformers, class_name).from_pretrained(folder, dtype=torch.float32, **options)
    return remembered(model.eval())


def tokenizer_of(folder: str, task: Mapping[str, Any]) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except ValueError:  # a class that only transformers 5 has, saved by it
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.model_max_length = task["max_length"]
    return tokenizer


def classification(folder: str, task: Mapping[str, Any], _: Mapping[str, Any]) -> Columns:
    """Scores of all labels, or of a regression its one number."""
    pipe = transformers.pipeline(
        "text-classification",
        model=load("AutoModelForSequenceClassification", folder),
        tokenizer=tokenizer_of(folder, task),
    )
    cut = {"truncation": True, "max_length": task["max_length"]}

    def ask(text: Any) -> Found:
        given = text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]}
        if task["kind"] == "regression":
            (one,) = pipe(given, top_k=None, function_to_apply="none", **cut)
            return {"exact": None, "scores": [one["score"]]}
        found = pipe(given, top_k=None, **cut)
        return labelled({one["label"]: one["score"] for one in found}, task)

    return {task["kind"]: ask}


def labelled(by_name: Mapping[str, float], task: Mapping[str, Any]) -> Found:
    """The likeliest label, or of several those that reach their thresholds; scores in the task's order."""
    scores = [by_name[name] for name in task["labels"]]
    if not task["multi_label"]:
        return {"exact": max(by_name, key=by_name.__getitem__), "scores": scores}
    limits = task["thresholds"] or [0.5] * len(scores)
    held = [name for name, p, least in zip(task["labels"], scores, limits, strict=True) if p >= least]
    return {"exact": held, "scores": scores}


def tagging(
    folder: str, task: Mapping[str, Any], variants: Mapping[str, Any], head: Mapping[str, Tensor] | None = None
) -> Columns:
    """Entities by each aggregation strategy; long texts in overlapping windows, which `none` does not know."""
    names = dict(enumerate(task["tags"]))
    options = {"num_labels": len(names), "id2label": names, "label2id": {v: k for k, v in names.items()}}
    model = load("AutoModelForTokenClassification", folder, **(options if head else {}))
    if head:  # the class of transformers is the base model with such a head, so the head of ours fits in
        model.classifier.load_state_dict(dict(head))
    pipe = transformers.TokenClassificationPipeline(model=model, tokenizer=tokenizer_of(folder, task))
    shared = max(0, min(task["stride"], (task["max_length"] - 2) // 2))

    def ask(text: str, how: str) -> Found:
        windows = {} if how == "none" else {"stride": shared}
        found = pipe(text, aggregation_strategy=how, **windows)
        named = [[one.get("entity_group") or one["entity"], one["start"], one["end"]] for one in found]
        exact = [[*one, text[one[1] : one[2]]] for one in named]
        return {"exact": exact, "scores": [float(one["score"]) for one in found]}

    return {how: functools.partial(ask, how=how) for how in variants}


def embedding(folder: str, task: Mapping[str, Any], _: Mapping[str, Any]) -> Columns:
    """The states of the feature-extraction pipeline, pooled and put to length 1."""
    pipe = transformers.pipeline(
        "feature-extraction", model=load("AutoModel", folder), tokenizer=tokenizer_of(folder, task)
    )
    cut = {"truncation": True, "max_length": task["max_length"]}

    def ask(text: str) -> Found:
        states = pipe(task["prompt"] + text, return_tensors=True, tokenize_kwargs=dict(cut))[0]
        pooled = {"mean": states.mean(0), "cls": states[0], "max": states.amax(0)}[task["pooling"]]
        pooled = pooled[: task["truncate"] or None]
        vector = torch.nn.functional.normalize(pooled, dim=0) if task["normalise"] else pooled
        return {"exact": None, "scores": vector.tolist()}

    return {"embeddings": ask}


def questions(folder: str, task: Mapping[str, Any], variants: Mapping[str, Any]) -> Columns:
    """The answers of the pipeline that transformers 5 no longer has."""
    pipe = transformers.pipeline(
        "question-answering", model=load("AutoModelForQuestionAnswering", folder), tokenizer=tokenizer_of(folder, task)
    )

    def ask(text: tuple[str, str], top_k: int) -> Found:
        found = pipe(
            question=text[0], context=text[1], top_k=top_k, doc_stride=task["stride"], max_seq_len=task["max_length"],
            max_answer_len=task["max_answer"], handle_impossible_answer=task["no_answer"],
        )  # fmt: skip
        found = found if isinstance(found, list) else [found]
        exact = [[one["answer"], one["start"], one["end"]] for one in found]
        return {"exact": exact, "scores": [float(one["score"]) for one in found]}

    return {name: functools.partial(ask, top_k=top_k) for name, top_k in variants.items()}


def several(folder: str, task: Mapping[str, Any], variants: Mapping[str, Any]) -> Columns:
    """A head that tags through the pipeline; one of a whole text by hand, as transformers has no class for it."""
    weights = load_file(Path(folder) / "heads.safetensors")
    model, tokenizer = load("AutoModel", folder), tokenizer_of(folder, task)

    def ask(text: str, part: Mapping[str, Any], head: Mapping[str, Tensor]) -> Found:
        given = tokenizer(text, truncation=True, max_length=task["max_length"], return_tensors="pt")
        with torch.no_grad():
            logits = torch.nn.functional.linear(model(**given).last_hidden_state[0, 0], head["weight"], head["bias"])
        if part["kind"] == "regression":
            return {"exact": None, "scores": logits.tolist()}
        scores = logits.sigmoid() if part["multi_label"] else logits.softmax(-1)
        return labelled(dict(zip(part["labels"], scores.tolist(), strict=True)), part)

    columns: Columns = {}
    for entry in task["parts"]:
        name, part = entry["name"], entry["task"]
        head = {key: weights[f"{name}.{key}"] for key in ("weight", "bias")}
        if part["kind"] == "token-classification":
            tags = tagging(folder, part, variants, head)
            columns |= {f"{name}, {how}": tags[how] for how in variants}
        else:
            columns[name] = functools.partial(ask, part=part, head=head)
    return columns


KINDS: dict[str, Callable[[str, Mapping[str, Any], Mapping[str, Any]], Columns]] = {
    "text-classification": classification,
    "regression": classification,
    "token-classification": tagging,
    "embeddings": embedding,
    "question-answering": questions,
    "multi-task": several,
}


def asked(ask: Ask, text: Any, read: Any) -> Found:
    """The answer to a text and, where attar reads another in its place, under `read` the answer to that."""
    try:
        found = ask(text)
    except Exception as error:  # whatever a pipeline does with a hard text is a finding
        found = {"refused": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    return found if read == text else {**found, "read": asked(ask, read, read)}


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    task = request["task"]
    columns = KINDS[task["kind"]](request["folder"], task, request["variants"])
    both = list(zip(request["texts"], request["read"], strict=True))
    answers = [{name: asked(ask, text, read) for name, ask in columns.items()} for text, read in both]
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    Path(sys.argv[2]).write_text(json.dumps({"versions": versions, "answers": answers}), encoding="utf-8")


if __name__ == "__main__":
    main()
