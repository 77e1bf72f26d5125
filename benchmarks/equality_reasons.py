"""Why two answers of equality.py differ: only what the answers themselves bear out is given as a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attar.runtime.tasks.base import Task
from attar.runtime.tokenizer import Text, well_formed

TOLERANCE = 1e-4
SHOWN = 160
"""Characters of a text or an answer that are shown."""
Found = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Both answers to one text in one column.

    Attributes:
        windows: how attar read the text, if in windows.
        first: the token that every row begins with.
        padding: the padding token, of families that count positions without it.
    """

    column: str
    number: int
    origin: str
    text: Text
    ours: Found
    theirs: Found
    task: Task
    windows: Sequence[Any]
    first: str
    padding: str

    @property
    def equal(self) -> bool:
        if "refused" in self.ours or "refused" in self.theirs:
            return "refused" in self.ours and "refused" in self.theirs
        return same(self.ours, self.theirs)

    @property
    def failed(self) -> bool:
        """Whether the pipeline could not read a text that attar answers."""
        return "refused" in self.theirs and "refused" not in self.ours

    def shown(self) -> str:
        return shortened(self.text)

    def sides(self) -> tuple[str, str]:
        """Both answers, of lists only what the other does not have."""
        both = []
        for one, other in ((self.ours, self.theirs), (self.theirs, self.ours)):
            if "refused" in one:
                both.append(f"refuses: {one['refused']}")
            elif "refused" in other or not isinstance(one["exact"], list):
                both.append(shortened([one["exact"], max(one["scores"], default=None)]))
            else:
                pairs = [[*_listed(e), s] for e, s in zip(one["exact"], _scores(one), strict=True)]
                theirs = [[*_listed(e), s] for e, s in zip(other["exact"], _scores(other), strict=True)]
                own = [p for p in pairs if p not in theirs]
                both.append(f"{len(pairs)} in all, of its own: {shortened(own)}")
        return both[0], both[1]

    def record(self) -> dict[str, Any]:
        attar, pipeline = self.sides()
        names = {"column": self.column, "text": self.number, "origin": self.origin, "input": self.shown()}
        return names | {"attar": attar, "pipeline": pipeline}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _scores(found: Found) -> list[Any]:
    """A score an entry to show; labels have theirs elsewhere."""
    rounded = [round(score, 4) for score in found["scores"]]
    return rounded if len(rounded) == len(found["exact"]) else [None] * len(found["exact"])


def shortened(value: Any) -> str:
    shown = ascii(value)
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}... ({len(shown):,} characters)"


def near(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and bool(np.all(np.abs(np.subtract(a, b)) <= TOLERANCE))


def same(a: Found, b: Found) -> bool:
    """Equal, and scores within the tolerance; two answers that were given."""
    return bool(a["exact"] == b["exact"]) and near(a["scores"], b["scores"])


def reason(case: Case) -> str:
    """The reason for a difference, or `unexplained`."""
    if "read" in case.theirs and "refused" not in case.ours:
        why = "attar cuts the question" if "refused" not in case.theirs else f"the pipeline fails: {_error(case)}"
        other = replace(case, ours=_well_formed(case.ours), theirs=case.theirs["read"])
        rest = "it answers as attar does" if other.equal else reason(other)
        return f"{rest if rest.startswith('unexplained') else why}; given what attar reads, {rest}"
    if "refused" in case.theirs:
        return f"the pipeline fails: {_error(case)}"
    if "refused" in case.ours:
        return f"attar refuses it, the pipeline answers: it {case.ours['refused'].partition(';')[0]}"
    if case.padding and case.padding in "".join(case.text):
        return f"the text holds {case.padding}: the model of transformers gives it no position"
    if case.task.kind == "text-classification" and isinstance(case.text, tuple) and not case.text[1]:
        return "the second text is empty: the pipeline's tokenizer takes that for no second text, attar for a pair"
    if case.task.kind == "question-answering":
        return _answers(case)
    if case.task.kind == "token-classification" or ", " in case.column:  # the head of several that tags
        return _entities(case)
    if case.ours["exact"] != case.theirs["exact"] and near(case.ours["scores"], case.theirs["scores"]):
        return "a tie: labels differ, scores do not"
    return "unexplained: labels or scores differ"


def _error(case: Case) -> str:
    return str(case.theirs["refused"]).partition(" must be")[0][:60]


def _well_formed(found: Found) -> Found:
    """The answer as it would quote a text without halves of surrogate pairs."""
    return {**found, "exact": json.loads(well_formed(json.dumps(found["exact"], ensure_ascii=False)))}


def _entities(case: Case) -> str:
    ours, theirs = _rows(case.ours), _rows(case.theirs)
    held = [row for row in theirs if row[1] < row[2]]
    if _alike(ours, held):
        return "attar leaves out finds without a character"
    if len(case.windows) > 1:
        second = case.windows[1]
        seam = int(second.offsets[np.flatnonzero(second.sequence >= 0)[0], 0])
        none = case.column.endswith("none")
        kept = ours if none else _longest(ours)
        limit = min([seam, *(r[1] for r in (*kept, *held) if r[1] < seam <= r[2])])  # a word may lie in both windows
        if _alike([r for r in kept if r[2] < limit], [r for r in held if r[2] < limit]):
            how = "the pipeline cuts it, attar reads on" if none else "windows are joined in other ways"
            return f"longer than the model: {how}; equal up to the second window"
    return "unexplained: entities differ"


def _longest(rows: Sequence[list[Any]]) -> list[list[Any]]:
    """Of finds that share characters the longest, or the likeliest of equals, as the pipeline joins windows."""
    kept: list[list[Any]] = []
    for row in sorted(rows, key=lambda row: int(row[1])):
        if kept and kept[-1][1] <= row[1] < kept[-1][2]:
            kept[-1] = max(kept[-1], row, key=lambda r: (r[2] - r[1], r[-1]))
        else:
            kept.append(row)
    return kept


def _answers(case: Case) -> str:
    if case.first in case.text[0]:
        return f"the question holds {case.first}, which the pipeline takes for a part of the context"
    ours = [[text.lower(), start, end, score] for text, start, end, score in _rows(case.ours)]
    theirs = [[text.lower(), start, end, score] for text, start, end, score in _rows(case.theirs)]
    whys = []
    if any(score > 1 + TOLERANCE for *_, score in theirs):
        whys.append("windows that share an answer sum to more than 1 in the pipeline")
        theirs = [[*row[:3], min(1.0, row[3])] for row in theirs]
    blank = [row for row in theirs if not row[0].strip() and not (case.task.no_answer and row[1:3] == [0, 0])]  # type: ignore[attr-defined]
    if blank:
        whys.append("the pipeline gives blank answers")
        theirs = [row for row in theirs if row not in blank]
    fewer = min(len(ours), len(theirs))
    pairs = list(zip(ours[:fewer], theirs[:fewer], strict=True))
    if any(a[0] == b[0] and a[1:3] != b[1:3] for a, b in pairs):
        whys.append("a text stands in several places: attar gives the likeliest, the pipeline the first it met")
    if all(a[0] == b[0] and abs(a[3] - b[3]) <= TOLERANCE for a, b in pairs) and whys:
        return "; ".join(whys)
    if pairs and all(abs(a[3] - b[3]) <= 1e-3 * b[3] for a, b in pairs):
        return "; ".join([*whys, "a tie: answers differ, scores do not"])
    return "unexplained: answers differ"


def _rows(found: Found) -> list[list[Any]]:
    return [[*one, score] for one, score in zip(found["exact"], found["scores"], strict=True)]


def _alike(ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]) -> bool:
    return [r[:-1] for r in ours] == [r[:-1] for r in theirs] and near([r[-1] for r in ours], [r[-1] for r in theirs])
