"""Tiny real models and data for tests: random checkpoints of every family and task, and texts that can be learnt."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from attar.distill.huggingface import HuggingFace
from attar.distill.student import Student
from attar.runtime.data import Examples
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.tokens import TokenClassification
from attar.runtime.tokenizer import Text

FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "electra", "mpnet")
KINDS = (
    "text-classification", "pairs", "multi-label", "regression", "token-classification", "question-answering",
    "embeddings", "multi-task",
)  # fmt: skip
"""The kinds of checkpoints that `make_checkpoint` makes; `pairs` is a classifier of two texts."""
LABELS = ("negative", "positive")
TAGS = ("O", "B-thing", "I-thing", "B-view", "I-view")
MAX_LENGTH = 48
MULTI = MultiTask(
    (("sentiment", TextClassification(LABELS)), ("spans", TokenClassification(TAGS, MAX_LENGTH, 8, "word"))), MAX_LENGTH
)

GOOD = ("charming", "gripping", "lovely", "brilliant", "moving", "funny", "superb", "tender")
BAD = ("dull", "clumsy", "awful", "tedious", "bland", "hollow", "tiresome", "lifeless")
NOUNS = ("film", "plot", "cast", "story", "scene", "music", "ending", "script")
NOISE = ("the", "a", "was", "and", "of", "in", "we", "saw", "it", "last", "night", "with", "two", "friends", "then")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?%'-"
torch.set_num_threads(1)  # models this small lose by a second thread, and very much so on a busy machine
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MPNET_SPECIALS = ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")
EDGE_TEXTS = ("", " ", "a", "a " * 200, "Déjà vu: 東京 🎉\tand\nmore", "?!" * 9, "w\u0000x", "\ud83c")


def sentences(count: int, seed: int = 0) -> Examples:
    """Labelled sentences of 4 to 20 words in which one or two adjectives say the sentiment."""
    rng = random.Random(seed)
    texts, labels = [], []
    for i in range(count):
        label = LABELS[i % 2]
        words = GOOD if label == "positive" else BAD
        parts = [f"The {rng.choice(NOUNS)} was {rng.choice(words)}"]
        if rng.random() < 0.3:
            parts.append(f"and {rng.choice(words)}")
        parts += rng.choices(NOISE, k=rng.randrange(0, 14))
        texts.append(" ".join(parts) + rng.choice((".", "!", "")))
        labels.append(label)
    return Examples(tuple(texts), tuple(labels), "synthetic sentences")


def spans(text: str) -> tuple[tuple[int, int, str], ...]:
    """Characters of a sentence's subject, `thing`, and of its first adjective, `view`."""
    adjective = text.split()[3].rstrip(".!")
    start = text.index(adjective)
    return (0, text.index(" was "), "thing"), (start, start + len(adjective), "view")


def corpus(kind: str, count: int, seed: int = 0) -> Examples:
    """The sentences as examples of a kind, with labels in the task's own terms."""
    plain = sentences(count, seed)
    texts: tuple[Text, ...] = tuple(str(t) for t in plain.texts)
    names = plain.labels or ()
    labels: Mapping[str, Callable[[str, str], Any]] = {
        "multi-label": lambda text, name: (name,) if len(text) % 3 else LABELS,
        "regression": lambda text, name: float(name == "positive") + len(text) / 100,
        "token-classification": lambda text, name: spans(text),
        "question-answering": lambda text, name: ((text.index("The"), text.index(" was ")),),
        "multi-task": lambda text, name: (name, spans(text)),
    }
    if kind == "question-answering":
        texts = tuple(f"We saw it. {t}" for t in plain.texts)
    made = [labels[kind](str(t), n) if kind in labels else n for t, n in zip(texts, names, strict=True)]
    return Examples(inputs(kind, texts), tuple(made), f"synthetic {kind}")


def inputs(kind: str, texts: tuple[Text, ...]) -> tuple[Text, ...]:
    """The texts as a kind reads them: as they are, or as the second of a pair."""
    first = {"pairs": "It was tender and moving.", "question-answering": "What was it that we saw?"}.get(kind)
    return tuple((first, str(text)) for text in texts) if first else texts


def tokenizer(specials: tuple[str, ...] = SPECIALS) -> Tokenizer:
    """WordPiece over the words of the sentences and all letters; marks around a text as BERT or MPNet puts them."""
    words = [w for group in (GOOD, BAD, NOUNS, NOISE) for w in group]
    pieces = dict.fromkeys([*specials, *words, *LETTERS, *(f"##{c}" for c in LETTERS)])
    result = Tokenizer(models.WordPiece({w: i for i, w in enumerate(pieces)}, unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(lowercase=True)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = _around(result) if "<s>" in specials else template(result)
    return result


def template(words: Tokenizer) -> processors.TemplateProcessing:
    """What BERT puts around a text or a pair, whose second half has type 1."""
    marks = [(t, words.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )


def _around(words: Tokenizer) -> processors.RobertaProcessing:
    """What MPNet puts around a text, <s> a </s>, or a pair, <s> a </s></s> b </s>."""
    cls, sep = ((t, words.token_to_id(t)) for t in ("<s>", "</s>"))
    return processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=False)


def make_checkpoint(
    folder: Path, family: str = "bert", *, kind: str = "text-classification", layers: int = 2, hidden: int = 32,
    ffn: int = 64, heads: int = 4, seed: int = 0, trained: bool = True, labels: tuple[str, ...] | None = None,
    **options: Any,
) -> Path:  # fmt: skip
    """A random model of a kind in Hugging Face form. `trained`: weights as large as training makes them, biases too."""
    import transformers

    roberta = family in {"roberta", "xlm-roberta"}
    # RoBERTa and MPNet count positions from behind the padding token, which is 1.
    specials = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]") if roberta else SPECIALS
    specials = MPNET_SPECIALS if family == "mpnet" else specials
    words, pad_id = tokenizer(specials), int(roberta or family == "mpnet")
    sizes: dict[str, Any] = {
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
    }  # fmt: skip
    if family == "distilbert":
        sizes = {"dim": hidden, "hidden_dim": ffn, "n_layers": layers, "n_heads": heads}
    if family == "electra":
        sizes["embedding_size"] = hidden
    if family == "modernbert":
        sizes["local_attention"] = 8  # of the shortest windows, so that short texts reach beyond
    if roberta:
        sizes["type_vocab_size"] = 1  # as those that were pretrained have it
    names = labels or (TAGS if kind == "token-classification" else LABELS)
    sizes |= {
        "vocab_size": words.get_vocab_size(), "max_position_embeddings": MAX_LENGTH + 2 * pad_id,
        "pad_token_id": pad_id, **_outputs(kind, names),
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(family, **(sizes | options))
    torch.manual_seed(seed)
    model = getattr(transformers, _CLASSES.get(kind, "AutoModelForSequenceClassification")).from_config(config)
    if trained:
        grow(model)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words.to_str(), encoding="utf-8")
    roles = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    marks = MPNET_SPECIALS if family == "mpnet" else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    record = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_LENGTH}
    record |= dict(zip(roles, marks, strict=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(record), encoding="utf-8")
    if kind == "embeddings":
        add_pooling(folder, hidden)
    if kind == "multi-task":
        add_heads(folder, MULTI, trained)
    return folder


_CLASSES = {
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "embeddings": "AutoModel",
    "multi-task": "AutoModel",
}


def _outputs(kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    """What config.json says of the outputs."""
    named = {"id2label": dict(enumerate(names)), "label2id": {v: k for k, v in enumerate(names)}}
    return {
        "regression": {"num_labels": 1, "problem_type": "regression"},
        "multi-label": {**named, "problem_type": "multi_label_classification"},
        "question-answering": {},
        "embeddings": {},
        "multi-task": {},
    }.get(kind, named)


def grow(model: torch.nn.Module) -> None:
    """Random weights of a size that makes outputs differ well."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0.0, 0.15)
            if "norm" in name.lower() and name.endswith("weight"):
                value.add_(1.0)


def add_pooling(folder: Path, hidden: int, mode: str = "mean_tokens", normalise: bool = True) -> None:
    """The files that make a folder one of sentence-transformers."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    modules = [{"idx": i, "name": str(i), "path": "", "type": f"x.models.{k}"} for i, k in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling | {f"pooling_mode_{mode}": True}))


def add_heads(folder: Path, task: Task, trained: bool = True) -> None:
    """Turns a base model's folder into a teacher with new heads of our own for `task`."""
    model = HuggingFace(folder, task, new=True)
    if trained:
        grow(model.own)
    model.save(folder)


def make_student(folder: Path, family: str = "bert", *, kind: str = "text-classification", **options: Any) -> Student:
    """The random model that `make_checkpoint` writes to `folder`, imported."""
    student = Student.load(make_checkpoint(folder, family, kind=kind, **options))
    # No file of a checkpoint says that a classifier reads pairs.
    return replace(student, task=replace(student.task, pair=True)) if kind == "pairs" else student  # type: ignore[call-arg]


def by_size(students: Sequence[Student], batch: int, tokens: int) -> list[float]:
    """In place of a clock: milliseconds by the weights of the layers."""
    return [0.1 + sum(p.numel() for p in s.transformer.layers.parameters()) / 1e4 for s in students]


def quiet(fraction: float, line: str) -> None:
    """A progress callback that says nothing."""
