"""What a run leaves to be read: report.json for programs, report.html for people, a table for the terminal.

Accuracies and other measures are in points (0 to 100), sizes in MB (10^6 bytes), latencies in ms; a ratio says of what.
"""

import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from attar.compress.gate import VerdictRecord, sentence
from attar.pipeline.html import render

_WIDTH = 110


class Interval(TypedDict):
    """A ratio with its 95 % interval."""

    ratio: float
    low: float
    high: float


class TaskInfo(TypedDict, total=False):
    """What is learnt, and how it is judged."""

    kind: str
    what: str
    labels: list[str]
    metric: str


class DataInfo(TypedDict, total=False):
    """How many examples there were, and where they came from."""

    train: int
    dev: int
    test: int
    unlabelled: int
    source: str


class TeacherInfo(TypedDict):
    """The model to be matched."""

    name: str
    parameters: int
    size_mb: float
    dev: NotRequired[float | None]
    test: NotRequired[float | None]
    p50_ms: NotRequired[float | None]
    trained_on: NotRequired[str | None]
    """The device; of a teacher that came fine-tuned nothing is known."""


class StageInfo(TypedDict):
    """One step of the recipe and what it did."""

    name: str
    use: str
    kept: bool
    reason: str
    """Why it was dropped, or what was done."""
    score: float | None
    """On the dev split, in points of what the gate judges."""
    size_mb: float
    parameters: int
    p50_ms: float | None
    speedup: Interval | None
    """Against the stage kept before it."""
    seconds: float
    cached: bool
    settings: dict[str, object]


class MeasuresInfo(TypedDict):
    """Every measure on test, in points."""

    teacher: dict[str, float]
    student: dict[str, float]


class ConfidenceInfo(TypedDict, total=False):
    """What a classifier's score is worth on test; errors are fractions, AUROC is in points."""

    temperature: float
    ece: float
    ece_uncalibrated: float
    auroc: float | None
    auroc_teacher: float | None


class GateInfo(VerdictRecord):
    """The verdict and the split on which it was reached."""

    split: str


class BundleInfo(TypedDict):
    """The file that ships; `dev` and `p50_ms` put it on the accuracy-versus-latency picture."""

    size_mb: float
    files: dict[str, int]
    scheme: str
    dev: NotRequired[float | None]
    p50_ms: NotRequired[float | None]


class SystemInfo(TypedDict):
    """One measured system."""

    name: str
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    batch: int


class RatioInfo(Interval):
    """How many times better than the system `name` the bundle is."""

    name: str
    metric: str
    rounds: int


class CertificateInfo(TypedDict):
    """Whether the machine was quiet enough to measure on."""

    verdict: str
    why: str


class BenchInfo(TypedDict):
    """The benchmark and how it was run."""

    systems: list[SystemInfo]
    ratios: list[RatioInfo]
    how: str
    certificate: NotRequired[CertificateInfo]


class ParityInfo(TypedDict):
    """How far the exported file is from PyTorch."""

    max_abs: float
    mean_abs: float
    texts: int
    checks: list[str]


class Report(TypedDict, total=False):
    """Everything that a run found out; any part may be missing."""

    title: str
    created: str
    attar: str
    task: TaskInfo
    data: DataInfo
    teacher: TeacherInfo
    stages: list[StageInfo]
    warnings: list[str]
    gate: GateInfo
    measures: MeasuresInfo
    confidence: ConfidenceInfo
    bundle: BundleInfo
    bench: BenchInfo
    overhead: Interval | None
    parity: ParityInfo
    machine: dict[str, str | int]
    versions: dict[str, str]
    recipe: str
    seconds: float


def write(report: Report, out: Path) -> None:
    """Write report.json and report.html into `out`, each aside and then renamed: never half a file."""
    # Both texts are made first, so that a report that cannot be drawn leaves the last good pair alone.
    texts = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": render(report),
    }
    write_texts(texts, out)


def write_texts(texts: Mapping[str, str], out: Path) -> None:
    """Files by name into `out`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        aside = out / f".{name}.{os.getpid()}.partial"
        try:
            aside.write_text(text, encoding="utf-8", newline="\n")
            aside.replace(out / name)
        finally:
            aside.unlink(missing_ok=True)


def table(report: Report) -> str:
    """The report for the terminal: aligned columns, at most 110 characters wide."""
    head = [report.get("title", "attar run"), report.get("created", "")]
    if "attar" in report:
        head.append(f"attar {report['attar']}")
    blocks = ["  ".join(_clean(part, 34) for part in head if part)]
    blocks += [block for block in (_stages(report), _bench(report), _closing(report)) if block]
    return "\n\n".join(blocks) + "\n"


def _stages(report: Report) -> str:
    header = ["", "stage", "", "on dev", "size MB", "params M", "p50 ms", "x previous (95 %)", "s"]
    rows = [header]
    notes = [""]
    if teacher := report.get("teacher"):
        figures = [
            _number(teacher.get("dev"), 2),
            _number(teacher["size_mb"], 1),
            _number(teacher["parameters"] / 1e6, 1),
            _number(teacher.get("p50_ms"), 2),
        ]
        rows.append(["T", _clean(teacher["name"], 28), "teacher", *figures, "", ""])
        notes.append("")
    for index, stage in enumerate(report.get("stages", []), 1):
        figures = [
            _number(stage.get("score"), 2),
            _number(stage["size_mb"], 1),
            _number(stage["parameters"] / 1e6, 1),
            _number(stage.get("p50_ms"), 2),
            _interval(stage.get("speedup")),
            "cached" if stage.get("cached") else _number(stage["seconds"], 0),
        ]
        rows.append([str(index), _clean(stage["name"], 28), "kept" if stage["kept"] else "dropped", *figures])
        notes.append("" if stage["kept"] else _clean(stage["reason"], 400))
    if len(rows) == 1:
        return ""
    lines = _align(rows, left=3)
    indent = " " * 3
    for position in range(len(lines) - 1, -1, -1):
        if notes[position]:
            note = f"dropped: {notes[position]}"
            wrapped = textwrap.wrap(note, _WIDTH, initial_indent=indent, subsequent_indent=indent)
            lines[position + 1 : position + 1] = wrapped
    return "\n".join(lines)


def _bench(report: Report) -> str:
    bench = report.get("bench")
    if not bench:
        return ""
    rows = [["system", "batch", "p50 ms", "p90 ms", "p99 ms", "texts/s"]]
    for system in bench["systems"]:
        figures = [_number(value, 2) for value in (system["p50_ms"], system["p90_ms"], system["p99_ms"])]
        figures.append(_number(system["throughput_per_s"], 0))
        rows.append([_clean(system["name"], 40), str(system["batch"]), *figures])
    lines = _align(rows, left=1)
    for ratio in bench["ratios"]:
        against = f"{ratio['ratio']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        who = f"{_clean(ratio['metric'], 20)} against {_clean(ratio['name'], 40)}"
        lines.append(f"{against} {who}, {ratio['rounds']} rounds")
    if known := bench.get("certificate"):
        lines += textwrap.wrap(_clean(f"machine {known['verdict']}: {known['why']}", 200), _WIDTH)
    return "\n".join(lines)


def _closing(report: Report) -> str:
    lines = []
    if bundle := report.get("bundle"):
        smaller = ""
        if (teacher := report.get("teacher")) and bundle["size_mb"] > 0:
            smaller = f", {teacher['size_mb'] / bundle['size_mb']:.1f}x smaller than the teacher"
        lines.append(f"bundle: {bundle['size_mb']:.1f} MB ({_clean(bundle['scheme'], 30)}){smaller}")
    if overhead := report.get("overhead"):
        lines.append(f"attar against the bare engine: {_interval(overhead)} of its time")
    if parity := report.get("parity"):
        lines.append(f"parity with PyTorch: at most {parity['max_abs']:.2g} on {parity['texts']:,} texts")
    if "seconds" in report:
        lines.append(f"took {report['seconds']:,.0f} s")
    if gate := report.get("gate"):
        lines += textwrap.wrap(f"{sentence(gate)} ({_clean(gate['split'], 20)})", _WIDTH)
    for warning in report.get("warnings", []):
        lines += textwrap.wrap(f"warning: {_clean(warning, 400)}", _WIDTH)
    return "\n".join(lines)


def _align(rows: list[list[str]], left: int) -> list[str]:
    """Rows as lines: the first `left` columns flush left, the rest flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:,.{decimals}f}"


def _interval(value: Interval | None) -> str:
    return "-" if value is None else f"{value['ratio']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _clean(text: str, width: int) -> str:
    """One line of printable characters: a name from a recipe must not move the cursor or break a column."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= width else line[: width - 3] + "..."
