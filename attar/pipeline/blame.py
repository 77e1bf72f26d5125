"""What `attar blame` finds out: the points and milliseconds of every stage, layer and matrix of a quantized student."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attar.compress.blame import Part, alone, blame, plan_of, without
from attar.distill.student import Student
from attar.export.bundle import in_memory, scheme
from attar.pipeline.progress import Console
from attar.pipeline.steps import dev_outputs, points, single_ms
from attar.runtime.bench.paired import Ratio, compare_each
from attar.runtime.bundle import MANIFEST, Bundle
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError

ROUNDS = 9
SINGLE = 8
Row = dict[str, Any]


def student_in(path: Path, given: Path | None) -> Student:
    """The student of a run's folder, of a bundle of such a run, or in the folder that is given.

    A bundle holds no weights that could be quantized anew, so its student is looked for beside it; `SettingsError`
    where there is none, or one of another lineage.
    """
    bundle = path / "bundle" if (path / "bundle" / MANIFEST).is_file() else path
    made = Bundle.read(bundle).manifest if (bundle / MANIFEST).is_file() else None
    folder = next(
        (f for f in (given, path, path / "student", path.parent / "student") if f and (f / "student.json").is_file()),
        None,
    )
    if folder is None or (given is not None and folder != given):
        raise SettingsError(
            f"no student.json in {given or path}: blame quantizes parts of the student anew, and a bundle does not "
            "hold it; give the folder of a run, or --student FOLDER"
        )
    student = Student.load(folder)
    # As JSON has it, which knows no tuples.
    if made is not None and json.loads(json.dumps([made.lineage, made.task.to_json()])) != json.loads(
        json.dumps([student.lineage, student.task.to_json()])
    ):
        raise SettingsError(f"the student in {folder} is not the one that {bundle} was made of; give its own --student")
    return student


def stages_of(path: Path) -> list[Row]:
    """What each kept stage of the run lost on dev and won a text, from the report in the folder or above the bundle."""
    file = next((f for f in (path / "report.json", path.parent / "report.json") if f.is_file()), None)
    if file is None:
        return []
    report = json.loads(file.read_text(encoding="utf-8"))
    teacher = report["teacher"]
    before: Mapping[str, Any] = {"score": teacher.get("dev"), "p50_ms": teacher.get("p50_ms")}
    rows = []
    for stage in report["stages"]:
        if stage["kept"]:
            rows.append({"name": stage["name"], **{
                name: None if None in (before[key], stage[key]) else round(before[key] - stage[key], 4)
                for name, key in (("points", "score"), ("ms", "p50_ms"))
            }})  # fmt: skip
            before = stage
    return rows


def find(student: Student, dev: Examples, console: Console) -> dict[str, Any]:
    """Layers and the matrices of the worst of them, by the distance that int8 in them alone puts into the outputs.

    `points` are those that dev loses by it; `ms` how much longer a single text takes with the part in fp32, with its
    95 % interval.
    """
    plan_of(student)
    console.line(f"layers and matrices one by one, on {len(dev)} texts ...")
    layers, matrices = blame(student, lambda s: dev_outputs(s, dev))
    whole = replace(student, plan=None)
    reference, took = points(in_memory(whole), dev), single_ms(in_memory(student), dev.texts)
    total = len(layers) + len(matrices)
    rows: list[Row] = []
    for number, part in enumerate([*layers, *matrices]):
        console.progress(number / total, f"points and milliseconds of {part.name}")
        rows.append(_row(student, part, dev, reference, took))
    found = points(in_memory(student), dev)
    return {
        "scheme": scheme(student), "measure": " and ".join(student.task.gates), "examples": len(dev),
        "fp32": round(reference, 3), "int8": round(found, 3), "lost": round(reference - found, 3),
        "single_ms": round(took, 4), "won_ms": _interval(_longer(student, whole, dev), took),
        "layers": rows[: len(layers)], "matrices": rows[len(layers) :],
    }  # fmt: skip


def _row(student: Student, part: Part, dev: Examples, reference: float, took: float) -> Row:
    lost = reference - points(in_memory(alone(student, part.matrices)), dev)
    longer = _longer(student, without(student, part.matrices), dev)
    return {
        "name": part.name, "distance": round(part.distance, 6), "points": round(lost, 3),
        "ms": _interval(longer, took),
    }  # fmt: skip


def _longer(student: Student, other: Student, dev: Examples) -> Ratio:
    """How many times as long the other takes for single texts, in paired interleaved rounds."""
    a, b, texts = in_memory(other), in_memory(student), student.task.inputs(dev.texts)[:SINGLE]
    pairs = [(lambda t=t: a.answer([t]), lambda t=t: b.answer([t])) for t in texts]
    return compare_each(pairs, ROUNDS)


def _interval(ratio: Ratio, took: float) -> list[float]:
    """Milliseconds a text that int8 wins: the mean and its 95 % interval."""
    return [round(took * (r - 1), 4) for r in (ratio.ratio, ratio.low, ratio.high)]


def text(record: Mapping[str, Any]) -> str:
    """For a terminal: what all of int8 cost and won, then stages, layers and matrices, the worst first."""
    lines = []
    if record["stages"]:
        lines += [f"{'stage':<36} {'points lost':>12} {'ms won':>9}"]
        lines += [f"{r['name']:<36} {_number(r['points'], 2, 12)} {_number(r['ms'], 3, 9)}" for r in record["stages"]]
        lines += [""]
    if "layers" not in record:
        return "\n".join([*lines, "the student is in fp32: no layer or matrix lost anything to int8"])
    mean, low, high = record["won_ms"]
    lines += [
        f"{record['scheme']}: {record['int8']:.2f} against {record['fp32']:.2f} in fp32 ({record['measure']}, "
        f"{record['examples']} examples): {record['lost']:+.2f} points lost;",
        f"single texts {record['single_ms']:.3f} ms, {mean:.3f} [{low:.3f}, {high:.3f}] less than in fp32",
    ]
    for title, rows in (("layer", record["layers"]), ("matrix", record["matrices"])):
        lines += ["", f"{title + ', alone in int8':<36} {'distance':>10} {'points lost':>12} {'ms won [95 %]':>26}"]
        lines += map(_line, rows)
    return "\n".join(lines)


def _line(row: Row) -> str:
    mean, low, high = row["ms"]
    won = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    return f"{row['name']:<36} {row['distance']:>10.5f} {row['points']:>12.2f} {won:>26}"


def _number(value: float | None, digits: int, width: int) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"
