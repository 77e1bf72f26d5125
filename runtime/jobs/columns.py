"""Answers as columns: what each task adds to the rows that it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from attar.runtime.tasks.base import Task, jsonable
from attar.runtime.tasks.classification import TextClassification
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tasks.qa import QuestionAnswering

Holds = Literal["string", "int", "double", "bool", "json", "strings", "vector", "objects"]


@dataclass(frozen=True)
class Column:
    """A column of a file. Every value may be null.

    `holds`: `json` is any value as JSON text, `strings` a list of them, `vector` a list of float32, and `objects` a
    list of objects, each with these `fields`, (name, holds).
    """

    name: str
    holds: Holds
    fields: tuple[tuple[str, Holds], ...] = ()


@dataclass(frozen=True)
class Layout:
    """The columns that a task's answers have, and the values of one answer in their order."""

    columns: tuple[Column, ...]
    values: Callable[[Any], tuple[Any, ...]]

    def rows(self, answers: Iterable[Any]) -> list[tuple[Any, ...]]:
        """The values of many answers; all None where there is an error in place of one."""
        nothing = (None,) * len(self.columns)
        return [nothing if isinstance(answer, Exception) else self.values(answer) for answer in answers]


SCORED: tuple[tuple[str, Holds], ...] = (("label", "string"), ("score", "double"))
FOUND: tuple[tuple[str, Holds], ...] = (("text", "string"), ("score", "double"), ("start", "int"), ("end", "int"))
ENTITY: tuple[tuple[str, Holds], ...] = (*SCORED, ("start", "int"), ("end", "int"), ("text", "string"))
LABEL, SCORE, TRUNCATED = Column("label", "string"), Column("score", "double"), Column("truncated", "bool")
SCORES = Column("scores", "objects", SCORED)


def layout(task: Task, prefix: str = "") -> Layout:
    """The columns of a task's answers, their names behind the prefix; those of a head behind its name too."""
    if isinstance(task, MultiTask):
        parts = [(name, layout(part, f"{prefix}{name}_")) for name, part in task.parts]
        columns = tuple(column for _, part in parts for column in part.columns)
        return Layout(columns, lambda a: tuple(v for name, part in parts for v in part.values(a[name])))
    plain = _classes(task) if isinstance(task, TextClassification) else _PLAIN[task.kind](task)
    columns = tuple(Column(prefix + c.name, c.holds, c.fields) for c in plain.columns)
    return Layout(columns, plain.values)


def _classes(task: TextClassification) -> Layout:
    """All scores stand beside several labels, and beside one where `top_k` asks for some."""
    if task.multi_label:
        columns = (Column("labels", "strings"), SCORES, TRUNCATED)
        return Layout(columns, lambda a: (list(a.labels), _scores(a), a.truncated))
    if task.top_k:
        return Layout((LABEL, SCORE, SCORES, TRUNCATED), lambda a: (a.label, a.score, _scores(a), a.truncated))
    return Layout((LABEL, SCORE, TRUNCATED), lambda a: (a.label, a.score, a.truncated))


def _scores(answer: Any) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in answer.scores.items()]


def _value(_: Task) -> Layout:
    return Layout((Column("value", "double"), TRUNCATED), lambda a: (a.value, a.truncated))


def _entities(_: Task) -> Layout:
    columns = (Column("entities", "objects", ENTITY),)
    return Layout(columns, lambda a: (jsonable(a),))


def _question(task: Task) -> Layout:
    columns = (Column("answer", "string"), SCORE, Column("start", "int"), Column("end", "int"), TRUNCATED)
    if not isinstance(task, QuestionAnswering) or task.top_k == 1:
        return Layout(columns, lambda a: (a.text, a.score, a.start, a.end, a.truncated))
    more = (*columns, Column("candidates", "objects", FOUND))
    return Layout(more, lambda a: (a.text, a.score, a.start, a.end, a.truncated, jsonable(a.candidates)))


def _vector(_: Task) -> Layout:
    return Layout((Column("vector", "vector"), TRUNCATED), lambda a: (a.values, a.truncated))


_PLAIN: Mapping[str, Callable[[Task], Layout]] = {
    "regression": _value,
    "token-classification": _entities,
    "question-answering": _question,
    "embeddings": _vector,
}
