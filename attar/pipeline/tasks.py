"""The recipe's [task] table: which task, with which settings, and its labels from the training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from torch import nn

from attar.distill.checkpoint import read_config
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks import KINDS
from attar.runtime.tasks.base import INPUTS, Task
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.multi import PARTS, MultiTask
from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tasks.regression import Regression
from attar.runtime.tasks.spans import Scheme, tags_of
from attar.runtime.tasks.tokens import TokenClassification
from attar.runtime.tokenizer import Text

OPTIONS: Mapping[str, tuple[str, ...]] = {
    "text-classification": (),
    "regression": (),
    "token-classification": ("stride", "aggregation", "scheme"),
    "question-answering": ("stride", "max_answer", "max_question", "top_k", "no_answer"),
    "embeddings": ("pooling", "truncate", "normalise", "prompt", "judged_by"),
    "multi-task": ("heads",),
}
"""What [task] may hold besides `kind`; all else is found in the data."""


@dataclass(frozen=True)
class HeadSettings:
    """One head of a multi-task model: its kind, its column in the data, and its own settings."""

    name: str
    kind: str
    column: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class TaskSettings:
    """The [task] table; `heads` of a multi-task model in the order of the file."""

    kind: str = "text-classification"
    options: Mapping[str, Any] = field(default_factory=dict)
    heads: tuple[HeadSettings, ...] = ()

    @property
    def columns(self) -> tuple[tuple[str, str, str], ...]:
        """(name, kind, column) of each head, as the data readers want them."""
        return tuple((h.name, h.kind, h.column) for h in self.heads)


def parse_task(record: Mapping[str, Any]) -> TaskSettings:
    """The table checked; `SettingsError` for an unknown kind or key, with the known ones."""
    kind = record.get("kind", "text-classification")
    if kind not in KINDS:
        raise SettingsError(f"[task] kind {kind!r} is unknown; known: {', '.join(KINDS)}")
    options = {k: v for k, v in record.items() if k not in ("kind", "heads")}
    heads = record.get("heads", {})
    _check(kind, {**options, **({"heads": heads} if heads else {})}, "[task]")
    if kind == "multi-task" and (not isinstance(heads, Mapping) or len(heads) < 2):
        raise SettingsError(
            '[task] of kind multi-task needs at least two tables like [task.heads.intent] with a "kind"'
        )
    return TaskSettings(kind, options, tuple(_head(name, head) for name, head in heads.items()))


def _head(name: str, record: Mapping[str, Any]) -> HeadSettings:
    where = f"[task.heads.{name}]"
    kind = record.get("kind")
    if kind not in PARTS:
        raise SettingsError(f"{where} needs a kind; known: {', '.join(PARTS)}")
    # A head is a part of a torch module and an output of a graph, which have names of their own.
    if hasattr(nn.ModuleDict(), name) or name in INPUTS:
        raise SettingsError(f'{where}: no head can have this name; call it {name}_head, with column = "{name}"')
    options = {k: v for k, v in record.items() if k not in ("kind", "column")}
    _check(kind, options, where)
    return HeadSettings(name, kind, str(record.get("column", name)), options)


def _check(kind: str, options: Mapping[str, Any], where: str) -> None:
    given = list(options)
    if options.get("scheme", "BIO") not in get_args(Scheme):
        raise SettingsError(f"{where} scheme {options['scheme']!r} is unknown; known: {', '.join(get_args(Scheme))}")
    for key in given:
        if key not in OPTIONS[kind]:
            known = ", ".join(("kind", *OPTIONS[kind]))
            raise SettingsError(f"{where} of kind {kind} has no setting {key!r}; known: {known}")


def build(settings: TaskSettings, train: Examples, max_length: int, base: Path, dev: Examples | None = None) -> Task:
    """The task, with its labels from the training data; `base` is the folder of the encoder to be fine-tuned.

    What an embedder is judged by depends on `dev`: it may learn from texts without any label.
    """
    if settings.kind == "multi-task":
        parts = []
        for place, head in enumerate(settings.heads):
            column = [label[place] for label in train.labels or ()]
            parts.append((head.name, _single(head.kind, head.options, train.texts, column, max_length, base)))
        return MultiTask(tuple(parts), max_length)
    judged = dev if dev is not None and settings.kind == "embeddings" else train
    return _single(settings.kind, settings.options, judged.texts, judged.labels or (), max_length, base)


def _single(
    kind: str, options: Mapping[str, Any], texts: Sequence[Text], labels: Sequence[Any], max_length: int, base: Path
) -> Task:
    if kind == "text-classification":
        return TextClassification.from_labels(labels, texts, max_length)
    if kind == "regression":
        return Regression.from_labels(labels, texts, max_length)
    if kind == "token-classification":
        types = {span[2] for label in labels for span in label}
        rest = {
            "aggregation": "word",
            "stride": min(32, max_length // 4),
            **{k: v for k, v in options.items() if k != "scheme"},
        }
        return TokenClassification(tags_of(types, options.get("scheme", "BIO")), max_length, **rest)
    if kind == "question-answering":
        return QuestionAnswering(max_length, **{"stride": min(128, max_length // 3), **options})
    config = read_config(base)
    width = int(config.get("hidden_size") or config.get("dim") or 0)
    # Pairs are labelled with floats, how similar they are; single texts with the names of classes.
    judged_by = "Spearman" if labels and all(isinstance(label, float) for label in labels) else "recall@1"
    return Embedding(width, max_length, **{"judged_by": judged_by, **options})
