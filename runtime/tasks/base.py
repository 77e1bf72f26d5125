"""What every task defines once, for training, gate and serving alike: text in, arrays, typed answer, and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tokenizer import Encoded, Text, Tokenizer

Floats = NDArray[np.float32]
Outputs = Mapping[str, Floats | list[Floats]]
"""Raw outputs by head: (R, C) for a head that reads a whole row, else one (T, C) a row, without padding."""
Targets = Mapping[str, NDArray[Any] | list[NDArray[Any]]]
"""What training aims at, by head; shapes as `Head.objective` says, one entry a row of `Encoded`."""
Statistics = Mapping[str, NDArray[Any]]
"""By measure (see `runtime/metrics.py`), what each example contributes to it: (N,) or (N, k)."""
Answer = Callable[[Sequence[Text]], list[Any]]
"""Texts to typed answers: a loaded bundle, a student or a teacher."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What a graph calls its inputs, the last one for pairs alone: no head can be called so."""
IGNORED = -100
"""The target of a token that says nothing: special tokens."""


@dataclass(frozen=True)
class Head:
    """One output of the network.

    `reads`: the states it sees: of the first token, of every one of the tokens, or their mean or maximum.
    `objective`: what its `outputs` mean, and the shape of their targets:
    - `classes`: a softmax over the outputs; int64 (R,), or (T,) a row where it reads tokens, `IGNORED` for none;
    - `labels`: a sigmoid each; float32 (R, C) of 0 and 1;
    - `value`: the numbers themselves; float32 (R, 1);
    - `span`: two softmaxes over the tokens of a row, for start and end; int64 (R, 2);
    - `vector`: an embedding, at length 1 where `unit` says so; int64 (R,) class ids, equal ones belong together.
    """

    name: str
    outputs: int
    reads: Literal["first", "tokens", "mean", "max"]
    objective: Literal["classes", "labels", "value", "span", "vector"]
    unit: bool = False


class Task(ABC):
    """A task is a frozen dataclass with at least `max_length`, in tokens; what it holds goes into the bundle."""

    kind: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    """Fields that a user may set at load time, because they only concern what is made of the outputs."""
    max_length: int

    @property
    @abstractmethod
    def heads(self) -> tuple[Head, ...]:
        """The network's outputs."""

    @property
    @abstractmethod
    def gates(self) -> tuple[str, ...]:
        """The measures that the gate judges; the others of `statistics` are only reported."""

    def gates_on(self, texts: Sequence[Text]) -> tuple[str, ...]:
        """The measures that fit these examples, which may be of another form than those of the gate."""
        return self.gates

    @property
    def pairs(self) -> bool:
        """Whether an input is two texts."""
        return False

    def continuations(self, head: str) -> NDArray[np.int64] | None:
        """For each output of a tagging head, the tag of a token that goes on where another began; else None."""
        return None

    def inputs(self, texts: Sequence[Text]) -> tuple[Text, ...]:
        """What the network reads of the texts of examples."""
        return tuple(texts)

    def reader(self, source: bytes, pad_id: int) -> Tokenizer:
        """The tokenizer with this task's way of cutting."""
        return Tokenizer(source, self.max_length, pad_id)

    def parse(self, item: object) -> Text:
        """One input as users write it; `DataError` says what was expected. Pairs: [a, b], or text and text_pair."""
        if self.pairs:
            return parse_pair(item, ("text", "text_pair"))
        if isinstance(item, dict) and list(item) == ["text"]:
            item = item["text"]
        if not isinstance(item, str):
            raise DataError(f"is a {type(item).__name__}, not a string")
        return item

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoded:
        """The rows of the network's input; a long text may take several."""
        return tokenizer.encode(texts)

    @abstractmethod
    def answers(self, encoded: Encoded, outputs: Outputs) -> list[Any]:
        """One typed answer a text."""

    @abstractmethod
    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        """What the rows should give, from labels in the form that `named` accepts."""

    @abstractmethod
    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[Any, ...]:
        """The labels in the task's own terms; `DataError` for one that it cannot learn from or be judged by."""

    @abstractmethod
    def statistics(self, answer: Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        """What each example contributes to each measure."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything, `kind` included."""

    @classmethod
    @abstractmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""

    def with_options(self, given: Mapping[str, Any]) -> Self:
        """The task with other settings of what is made of the outputs; an unknown one is refused."""
        for key in given:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise SettingsError(f"{self.kind} has no option {key!r}; known: {known}")
        changed: Self = replace(self, **given)  # type: ignore[type-var]  # every task is a dataclass
        return changed


def shortened(task: Task, length: int) -> Task:
    """The task reading `length` tokens; overlaps of windows shrink with it."""
    changes: dict[str, Any] = {"max_length": length}
    if getattr(task, "stride", 0):
        changes["stride"] = min(task.stride, length // 4)  # type: ignore[attr-defined]
    changed: Task = replace(task, **changes)  # type: ignore[type-var]  # every task is a dataclass
    return changed


def strings(given: Any) -> tuple[str, ...]:
    """Labels or tags as a bundle lists them; `DataError` for what is no list of strings."""
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) for name in given):
        raise DataError(f"labels are a list of strings, not {given!r:.100}")
    return tuple(given)


def parse_pair(item: object, names: tuple[str, str]) -> tuple[str, str]:
    """Two texts given as a list, a tuple, or an object with the two keys."""
    if isinstance(item, Mapping) and set(item) == set(names):
        item = [item[names[0]], item[names[1]]]
    if not isinstance(item, list | tuple) or len(item) != 2 or not all(isinstance(part, str) for part in item):
        raise DataError(
            f"is not a pair of texts: give [{names[0]}, {names[1]}], or an object with {names[0]!r} and {names[1]!r}"
        )
    return item[0], item[1]


def softmax(logits: Floats) -> Floats:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits: Floats) -> Floats:
    """The logistic function of each entry."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)), dtype=np.float32)


def activate(head: Head, raw: Floats) -> Floats:
    """Raw outputs as what they mean, all of order 1: probabilities, vectors, numbers. Shape unchanged."""
    if head.objective == "classes":
        return softmax(raw)
    if head.objective == "labels":
        return sigmoid(raw)
    if head.objective == "span":
        return np.swapaxes(softmax(np.swapaxes(raw, -1, -2)), -1, -2)
    return raw


def jsonable(answer: Any) -> Any:
    """A typed answer as plain JSON values."""
    if type(answer) in (float, str, int, bool):  # most of them are, and the questions below take their time
        return answer
    if is_dataclass(answer) and not isinstance(answer, type):
        return {f.name: jsonable(getattr(answer, f.name)) for f in fields(answer)}
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, list | tuple):
        return [jsonable(a) for a in answer]
    if isinstance(answer, Mapping):
        return {k: jsonable(v) for k, v in answer.items()}
    return answer
