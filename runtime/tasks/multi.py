"""Several tasks on one encoder: one text, one pass, one answer a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import INPUTS, Answer, Head, Outputs, Statistics, Targets, Task
from attar.runtime.tasks.tokens import TokenClassification
from attar.runtime.tokenizer import Encoded, Text, Tokenizer

PARTS = ("text-classification", "regression", "token-classification")


@dataclass(frozen=True)
class MultiTask(Task):
    """Named tasks that share their text. An answer is a dict: what each of them says, by its name.

    Texts longer than the model are read in windows where a part tags tokens; the other parts then judge by the first.
    """

    parts: tuple[tuple[str, Task], ...]
    max_length: int = 128

    kind = "multi-task"

    def __post_init__(self) -> None:
        names = [name for name, _ in self.parts]
        if len(names) < 2 or len(set(names)) != len(names):
            raise SettingsError(f"a multi-task model needs at least two heads of different names, got {names}")
        for name, part in self.parts:
            if part.kind not in PARTS or part.pairs:
                kind = f"{part.kind} of pairs" if part.pairs else part.kind
                raise SettingsError(f"head {name!r} cannot be {kind} here; known, of single texts: {', '.join(PARTS)}")
            if not name.isidentifier():
                raise SettingsError(f"a head's name must be a plain word, not {name!r}")
            if name in INPUTS:
                raise SettingsError(f"head {name!r} has the name of an input of the network; call it {name}_head")
        # Taggers share their windows, so each must know how much of these overlaps.
        strides = {name: part.stride for name, part in self.parts if isinstance(part, TokenClassification)}
        if len(set(strides.values())) > 1:
            raise SettingsError(f"heads that tag tokens need one stride, got {strides}; give all the same")
        # One length: replacing the whole's must reach the parts, which read what the whole has cut.
        own = tuple((name, replace(part, max_length=self.max_length)) for name, part in self.parts)  # type: ignore[type-var]
        object.__setattr__(self, "parts", own)

    @property
    def heads(self) -> tuple[Head, ...]:
        return tuple(replace(part.heads[0], name=name) for name, part in self.parts)

    def columns(self, called: Sequence[str] = ()) -> tuple[tuple[str, str, str], ...]:
        """(name, kind, column) of each head, as data readers want them; by default a column has its head's name."""
        names = [name for name, _ in self.parts]
        if len(called or names) != len(names):
            raise SettingsError(f"{len(called)} label columns for the heads {', '.join(names)}: name one a head")
        return tuple((n, part.kind, c) for (n, part), c in zip(self.parts, called or names, strict=True))

    @property
    def gates(self) -> tuple[str, ...]:
        return tuple(f"{name}: {gate}" for name, part in self.parts for gate in part.gates)

    @property
    def _tagger(self) -> Task | None:
        return next((part for _, part in self.parts if part.heads[0].reads == "tokens"), None)

    def continuations(self, head: str) -> NDArray[np.int64] | None:
        part = dict(self.parts)[head]
        return part.continuations(part.heads[0].name)

    def reader(self, source: bytes, pad_id: int) -> Tokenizer:
        return (self._tagger or self.parts[0][1]).reader(source, pad_id)

    def encode(self, tokenizer: Tokenizer, texts: Sequence[Text]) -> Encoded:
        return (self._tagger or self.parts[0][1]).encode(tokenizer, texts)

    def answers(self, encoded: Encoded, outputs: Outputs) -> list[dict[str, Any]]:
        found = {}
        for name, part in self.parts:
            own, rows = self._of(part, encoded)
            raw = outputs[name]
            found[name] = part.answers(own, {part.heads[0].name: raw[rows] if isinstance(raw, np.ndarray) else raw})
        return [dict(zip(found, answers, strict=True)) for answers in zip(*found.values(), strict=True)]

    def targets(self, encoded: Encoded, labels: Sequence[Any]) -> Targets:
        result: dict[str, Any] = {}
        for place, (name, part) in enumerate(self.parts):
            own, _ = self._of(part, encoded)
            found = part.targets(own, [label[place] for label in labels])[part.heads[0].name]
            if isinstance(found, np.ndarray) and encoded.windows is not None:
                found = found[[w.text for w in encoded.windows]]  # every window of a text has its label
            result[name] = found
        return result

    def _of(self, part: Task, encoded: Encoded) -> tuple[Encoded, list[int]]:
        """The rows that a part reads: all of them, or the first of each text."""
        windows = encoded.windows
        if windows is None or part.heads[0].reads == "tokens":
            return encoded, list(range(len(encoded.ids)))
        owners = encoded.owners
        rows = [i for i, owner in enumerate(owners) if i == 0 or owners[i - 1] != owner]
        ends = [*rows[1:], len(windows)]
        cut = [end - row > 1 for row, end in zip(rows, ends, strict=True)]
        return Encoded([encoded.ids[i] for i in rows], cut), rows

    def named(self, labels: Sequence[Any], texts: Sequence[Text]) -> tuple[Any, ...]:
        for i, label in enumerate(labels):
            if not isinstance(label, tuple) or len(label) != len(self.parts):
                raise DataError(f"example {i + 1}: expected {len(self.parts)} labels, one a head, got {label!r}")
        columns = []
        for place, (name, part) in enumerate(self.parts):
            try:
                columns.append(part.named([label[place] for label in labels], texts))
            except DataError as error:
                raise DataError(f"head {name!r}: {error}") from error
        return tuple(zip(*columns, strict=True))

    def statistics(self, answer: Answer, texts: Sequence[Text], labels: Sequence[Any]) -> Statistics:
        answers = answer(texts)
        result: dict[str, NDArray[Any]] = {}
        for place, (name, part) in enumerate(self.parts):
            own = [a[name] for a in answers]
            found = part.statistics(lambda _, own=own: own, texts, [label[place] for label in labels])  # type: ignore[misc]
            result |= {f"{name}: {measure}": values for measure, values in found.items()}
        return result

    def with_options(self, given: Mapping[str, Any]) -> Self:
        """Options of the heads: `slots.aggregation` for one of them, `aggregation` for every head that has it."""
        parts = dict(self.parts)
        for key, value in given.items():
            head, dot, option = key.rpartition(".")
            chosen = [name for name, part in self.parts if option in part.options and (not dot or name == head)]
            if not chosen:
                known = [f"{name}.{option}" for name, part in self.parts for option in part.options]
                raise SettingsError(f"{self.kind} has no option {key!r}; known: {', '.join(known) or 'none'}")
            for name in chosen:
                parts[name] = parts[name].with_options({option: value})
        return replace(self, parts=tuple(parts.items()))

    def to_json(self) -> dict[str, Any]:
        parts = [{"name": name, "task": part.to_json()} for name, part in self.parts]
        return {"kind": self.kind, "parts": parts, "max_length": self.max_length}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(tuple((p["name"], task_of(p["task"])) for p in record["parts"]), int(record["max_length"]))
