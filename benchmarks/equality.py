"""Whether a bundle answers as the transformers pipeline with the same fp32 weights, on real and on hard texts.

python benchmarks/equality.py build/clinc150/teacher --texts ../shared/data/clinc150/test.jsonl

The folder is a fine-tuned Hugging Face model. It is imported, exported as fp32, and loaded as what ships; the other
side is equality_reference.py, in this Python or in the one that --reference names (question answering needs
transformers 4, the pipeline left with 5). Labels, spans and offsets must be the same, scores within 1e-4. Every
difference is listed; the exit status is 1 if one has no reason that this script could check.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from equality_reasons import TOLERANCE, Case, reason
from hard_texts import pairs, singles

import attar
from attar.distill.importers import family_of
from attar.distill.student import Student
from attar.export.bundle import write
from attar.runtime.errors import DataError
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.multi import MultiTask
from attar.runtime.tokenizer import Text, well_formed

STRATEGIES: dict[str, Any] = dict.fromkeys(("none", "simple", "first", "average", "max"))
RANKS = {"best": 1, "top 3": 3}
Found = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One column of answers, counted: equal, refused by both, failed in the pipeline alone, and what differs."""

    column: str
    texts: int
    equal: int
    refused: int
    failed: int
    differ: int
    scores: int
    difference: float


def real_texts(files: Sequence[Path], pair: bool) -> list[Any]:
    """The texts of JSON lines: text, tokens, or question and context; as pairs, or each by itself."""
    found: list[Any] = []
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if "context" in record:
                found.append((record["question"], record["context"]))
            elif "text_pair" in record:
                found.append((record["text"], record["text_pair"]))
            else:
                found.append(record["text"] if "text" in record else " ".join(record["tokens"]))
    if pair:
        single = [one for one in found if isinstance(one, str)]
        return [one for one in found if not isinstance(one, str)] + list(pairwise(single))
    return list(dict.fromkeys(part for one in found for part in ([one] if isinstance(one, str) else one)))


def variants(task: Task) -> dict[str, Any]:
    """What to vary: aggregation strategies, or how many candidates."""
    tasks = [part for _, part in task.parts] if isinstance(task, MultiTask) else [task]
    kinds = {one.kind for one in tasks}
    return STRATEGIES if "token-classification" in kinds else RANKS if "question-answering" in kinds else {}


def varied(task: Task, name: str) -> Task:
    """The task in one of its variants; probabilities without a temperature, which no pipeline knows."""
    if isinstance(task, MultiTask):
        return replace(task, parts=tuple((n, varied(part, name)) for n, part in task.parts))
    settings: dict[str, Mapping[str, Any]] = {
        "token-classification": {"aggregation": name},
        "question-answering": {"top_k": RANKS.get(name, 1)},
        "text-classification": {"temperature": 1.0},
    }
    return task.with_options(settings.get(task.kind, {}))


def plain(task: Task, answer: Any) -> Found:
    """An answer as the other side gives it: what must be equal, and scores."""
    if task.kind == "text-classification":
        exact = list(answer.labels) if hasattr(answer, "labels") else answer.label
        return {"exact": exact, "scores": [answer.scores[name] for name in task.labels]}  # type: ignore[attr-defined]
    if task.kind == "regression":
        z = (answer.value - task.mean) / task.scale  # type: ignore[attr-defined]
        return {"exact": None, "scores": [z]}
    if task.kind == "embeddings":
        return {"exact": None, "scores": answer.values.tolist()}
    if task.kind == "question-answering":
        exact = [[c.text, c.start, c.end] for c in answer.candidates]
        return {"exact": exact, "scores": [c.score for c in answer.candidates]}
    return {"exact": [[e.label, e.start, e.end, e.text] for e in answer], "scores": [e.score for e in answer]}


def columns(task: Task, name: str, answers: Sequence[Any]) -> Iterator[tuple[str, list[Found]]]:
    """The answers of one variant by the name of their column."""
    if not isinstance(task, MultiTask):
        yield name or task.kind, [plain(task, answer) for answer in answers]
        return
    for part_name, part in task.parts:
        title = f"{part_name}, {name}" if part.kind == "token-classification" else part_name
        yield title, [plain(part, answer[part_name]) for answer in answers]


def refusal(task: Task, text: Any) -> str | None:
    try:
        task.parse(text)
    except DataError as error:
        return str(error)
    return None


def ours(model: attar.Model, texts: Sequence[Text]) -> tuple[list[dict[str, Found]], Sequence[Text], list[list[Any]]]:
    """By text, the answers of each column; the text as it was read; and in which windows, if in any."""
    refused = [refusal(model.task, text) for text in texts]
    kept = [text for text, why in zip(texts, refused, strict=True) if why is None]
    encoded = model.task.encode(model.tokenizer, kept)
    outputs = model.outputs(encoded)  # Model.answer in its parts, so that all variants are of one pass
    by_column: dict[str, Iterator[Found]] = {}
    for name in variants(model.task) or [""]:
        task = varied(model.task, name)
        found = task.answers(encoded, outputs)
        by_column |= {title: iter(answers) for title, answers in columns(task, name, found)}
    windows: list[list[Any]] = [[] for _ in kept]
    for window in encoded.windows or []:
        windows[window.text].append(window)
    cut, read = iter(windows), iter(encoded.texts or kept)  # questions may be cut
    answers = [
        {title: {"refused": why} if why else next(column) for title, column in by_column.items()} for why in refused
    ]
    whole = [text if why else next(read) for text, why in zip(texts, refused, strict=True)]
    readable: list[Text] = [
        well_formed(t) if isinstance(t, str) else (well_formed(t[0]), well_formed(t[1])) for t in whole
    ]
    return answers, readable, [[] if why else next(cut) for why in refused]


def theirs(python: str, folder: Path, task: Task, texts: Sequence[Text], read: Sequence[Text]) -> dict[str, Any]:
    """Versions and, by text, the answers of each column, from another process."""
    with tempfile.TemporaryDirectory() as scratch:
        request, answers = Path(scratch) / "request.json", Path(scratch) / "answers.json"
        record = {"folder": str(folder), "task": task.to_json(), "texts": texts, "read": read, "threads": 1}
        request.write_text(json.dumps(record | {"variants": variants(task)}), encoding="utf-8")
        script = Path(__file__).with_name("equality_reference.py")
        subprocess.run([python, str(script), str(request), str(answers)], check=True)
        found: dict[str, Any] = json.loads(answers.read_text(encoding="utf-8"))
    return found


def compared(cases: Sequence[Case]) -> Row:
    """The counts of one column, and the largest difference of the scores of answers that are equal but for them."""
    both = [c for c in cases if "refused" not in c.ours and "refused" not in c.theirs]
    alike = [c for c in both if c.ours["exact"] == c.theirs["exact"]]
    gaps = [np.abs(np.subtract(c.ours["scores"], c.theirs["scores"])).max(initial=0.0) for c in alike]
    refused = len([c for c in cases if c.equal]) - len([c for c in both if c.equal])
    failed = len([c for c in cases if not c.equal and c.failed])
    equal = len([c for c in both if c.equal])
    scores = sum(len(c.theirs["scores"]) for c in both)
    differ = len(cases) - equal - refused - failed
    return Row(cases[0].column, len(cases), equal, refused, failed, differ, scores, float(max(gaps, default=0.0)))


def measured(folder: Path, python: str, files: Sequence[Path], count: int) -> tuple[dict[str, str], list[Case]]:
    """Every answer of both sides, paired."""
    student = Student.load(folder)
    make: Any = pairs if student.task.pairs else singles
    origins, texts = zip(*make(real_texts(files, student.task.pairs), count, 0), strict=True)
    with tempfile.TemporaryDirectory() as scratch:
        write(student, Path(scratch) / "bundle", name="equality")
        model = attar.load(Path(scratch) / "bundle")
    found, read, windows = ours(model, texts)
    wanted = theirs(python, folder, student.task, texts, read)
    answers = wanted["answers"]
    padding = model.tokenizer.token(student.pad_id) if family_of(folder).pad_offset else ""
    first = model.tokenizer.token(model.tokenizer.encode(["a"]).ids[0][0])
    cases = [
        Case(column, i, origins[i], texts[i], found[i][column], answers[i][column], student.task, windows[i], first,
             padding)
        for column in answers[0]
        for i in range(len(texts))
    ]  # fmt: skip
    return wanted["versions"], cases


def show(rows: Sequence[Row], listed: Sequence[tuple[Case, str]]) -> None:
    """The table, how often each reason occurs, and every difference; of columns that share one, the first."""
    print(f"{'':26}{'texts':>7}{'equal':>7}{'refused':>9}{'failed':>8}{'differ':>8}{'scores':>9}{'largest gap':>13}")
    for row in rows:
        counts = f"{row.texts:7}{row.equal:7}{row.refused:9}{row.failed:8}{row.differ:8}{row.scores:9}"
        print(f"{row.column[:25]:26}{counts}{row.difference:13.1e}")
    print("refused: by both; failed: in the pipeline; largest gap: of the scores of otherwise equal answers")
    for (column, why), count in Counter((case.column, why) for case, why in listed).items():
        print(f"  {count:5}  {column}: {why}")
    grouped: dict[tuple[int, str], list[Case]] = {}
    for case, why in listed:
        grouped.setdefault((case.number, why), []).append(case)
    for (number, why), cases in sorted(grouped.items()):
        first = cases[0]
        print(f"\ntext {number} ({first.origin}) {first.shown()}")
        print(f"  in        {', '.join(case.column for case in cases)}\n  why       {why}")
        for side, answer in zip(("attar", "pipeline"), first.sides(), strict=True):
            print(f"  {side:10}{answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a fine-tuned Hugging Face folder")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="JSON lines with real texts")
    parser.add_argument("--reference", default=sys.executable, help="the Python whose transformers answers")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    versions, cases = measured(args.folder.resolve(), args.reference, args.texts, args.count)
    names = list(dict.fromkeys(case.column for case in cases))
    rows = [compared([case for case in cases if case.column == name]) for name in names]
    listed = [(case, reason(case)) for case in cases if not case.equal]
    if args.json:
        differences = [{"why": why, **case.record()} for case, why in listed]
        record = {"model": args.folder.name, "versions": versions, "tolerance": TOLERANCE}
        print(json.dumps(record | {"columns": [vars(row) for row in rows], "differences": differences}))
    else:
        kind = cases[0].task.kind
        print(f"{args.folder.name}, {kind}, against transformers {versions['transformers']}, torch {versions['torch']}")
        show(rows, listed)
    sys.exit(any(why.startswith("unexplained") for _, why in listed))


if __name__ == "__main__":
    main()
