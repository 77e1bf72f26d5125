"""Several students of one teacher, and the front of what they are worth: accuracy against latency and size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from attar.distill import processes
from attar.distill.device import CPU
from attar.pipeline import charts
from attar.pipeline.markup import cells, decimal, heading, safe, table
from attar.pipeline.progress import Console
from attar.pipeline.recipe import Recipe
from attar.pipeline.report import Report, write_texts
from attar.pipeline.run import Run
from attar.pipeline.style import CSS
from attar.runtime.errors import AttarError, SettingsError


@dataclass(frozen=True)
class Rung:
    """One student on test: points, distance to the teacher with the gate's bound, speed-ups over it, and size.

    `failed` says why there is no student; `front`: no other is as good in points and better in speed, or in size.
    """

    name: str
    score: float = 0.0
    difference: float = 0.0
    bound: float = 0.0
    verdict: str = ""
    p50: dict[str, Any] | None = None
    throughput: dict[str, Any] | None = None
    size_mb: float = 0.0
    seconds: float = 0.0
    failed: str = ""
    front: bool = False


def chosen_of(recipes: Sequence[Recipe], only: str | None) -> list[Recipe]:
    """The rungs that `only` names, separated by commas, in the recipe's order; without it, all."""
    if only is None:
        return list(recipes)
    wanted = [name.strip() for name in only.split(",")]
    known = [recipe.name for recipe in recipes]
    for name in wanted:
        if name not in known:
            raise SettingsError(f"the ladder has no rung {name!r}; it has {', '.join(known)}")
    return [recipe for recipe in recipes if recipe.name in wanted]


def climb(
    recipes: Sequence[Recipe], out: Path, console: Console, data: str | None = None, device: torch.device = CPU
) -> dict[str, Any]:
    """Trains every rung that is not cached; what `ladder.json` holds. A rung that fails leaves the others alone."""
    rungs, reports = [], []
    for recipe in recipes:
        console.line(f"rung {recipe.name}")
        try:
            with processes.in_turn():
                place = out / recipe.name
                run = Run(recipe, place, console, data=data, allow_failed_gate=True, home=out, device=device)
            report = run()
        except AttarError as error:
            # Several processes may be at different places when one fails, and could not go on in step.
            if len(recipes) == 1 or not (out / "teacher").is_dir() or processes.several():
                raise
            console.line(f"rung {recipe.name} failed: {error}")
            rungs.append(Rung(recipe.name, failed=str(error)))
            continue
        reports.append(report)
        rungs.append(rung_of(recipe.name, report))
    if not reports:
        raise AttarError(f"no rung could be trained: {rungs[0].failed}")
    best = front(rungs)
    teacher = reports[0]["teacher"]
    record = {
        "teacher": teacher, "metric": reports[0]["task"]["metric"], "machine": reports[0]["machine"],
        "teacher_p50_ms": round(median(teacher_p50(r) for r in reports), 4),
        "rungs": [asdict(rung) | {"front": rung.name in best} for rung in rungs],
    }  # fmt: skip
    if processes.leads():
        write(record, out)
    return record


def rung_of(name: str, report: Report) -> Rung:
    """The figures of one run that a ladder compares."""
    gate = report["gate"]
    ratios = {r["metric"]: dict(r) for r in report["bench"]["ratios"] if r["name"] == "teacher"}
    return Rung(
        name, gate["student"], gate["difference"], gate["lower_bound"], f"{gate['verdict']} at {gate['margin']:g}",
        ratios["p50"], ratios["throughput"], report["bundle"]["size_mb"], report["seconds"],
    )  # fmt: skip


def teacher_p50(report: Report) -> float:
    """Milliseconds of the teacher in PyTorch, in this run's rounds."""
    return float(next(s["p50_ms"] for s in report["bench"]["systems"] if s["name"] == "teacher"))


def front(rungs: Sequence[Rung]) -> set[str]:
    """Names of the rungs that no other beats in points and in speed and in size at once."""
    able = [r for r in rungs if r.p50 is not None]

    def worth(rung: Rung) -> tuple[float, float, float]:
        return rung.score, (rung.p50 or {})["ratio"], -rung.size_mb

    def beaten(rung: Rung) -> bool:
        mine = worth(rung)
        return any(
            other is not rung and all(a >= b for a, b in zip(worth(other), mine, strict=True)) and worth(other) != mine
            for other in able
        )

    return {r.name for r in able if not beaten(r)}


def rows(record: dict[str, Any]) -> list[list[str]]:
    """The table, a line a rung; * marks the front."""
    found = [["rung", record["metric"], "difference (95 % bound)", "gate", "p50", "throughput", "MB"]]
    for rung in record["rungs"]:
        if rung["failed"]:
            found.append([rung["name"], "failed", rung["failed"], "", "", "", ""])
            continue
        speeds = [f"{r['ratio']:.1f}x [{r['low']:.1f}, {r['high']:.1f}]" for r in (rung["p50"], rung["throughput"])]
        found.append([
            rung["name"] + ("*" if rung["front"] else ""), decimal(rung["score"], 2),
            f"{rung['difference']:+.2f} ({rung['bound']:+.1f})", rung["verdict"], *speeds, f"{rung['size_mb']:.2f}",
        ])  # fmt: skip
    return found


def text(record: dict[str, Any]) -> str:
    """The table for a terminal."""
    lines = rows(record)
    widths = [max(len(line[i]) for line in lines if line[1] != "failed" or i == 0) for i in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    teacher = record["teacher"]
    closing = f"teacher {teacher['name']}: {teacher['test']:.2f}; speed against it in PyTorch fp32; * on the front"
    return "\n".join([*shown, closing])


def write(record: dict[str, Any], out: Path) -> None:
    """ladder.json for programs and ladder.html for people."""
    texts = {"ladder.json": json.dumps(record, indent=1, ensure_ascii=False) + "\n", "ladder.html": page(record)}
    write_texts(texts, out)


def page(record: dict[str, Any]) -> str:
    """One self-contained page: the table, and the fronts as pictures."""
    teacher, scale = record["teacher"], record["teacher_p50_ms"]
    points = [charts.Point("T", "teacher", teacher["size_mb"], scale, teacher["test"])]
    for number, rung in enumerate(record["rungs"], 1):
        if not rung["failed"]:
            # The teacher's latency and the paired ratio: what was timed in different runs is not compared.
            figures = (rung["size_mb"], scale / rung["p50"]["ratio"], rung["score"])
            points.append(charts.Point(str(number), rung["name"], *figures, kept=rung["front"]))
    marks = ", ".join(f"{p.mark} {p.name}" for p in points)
    metric = record["metric"]
    slow, large = (sorted(points, key=lambda p: -(getattr(p, by) or 0)) for by in ("p50_ms", "size_mb"))
    drawn = [
        (f"{metric} over latency", charts.scatter(slow, metric, f"{metric} over latency: {marks}", "test")),
        (f"{metric} over size", charts.scatter(large, metric, f"{metric} over size: {marks}", "test", "size_mb")),
        ("Latency", charts.bars(points, "p50_ms", "p50 latency in ms")),
        ("Size", charts.bars(points, "size_mb", "Size in MB")),
    ]
    lines = rows(record)
    body = [cells([f'<th class="text" scope="row">{safe(line[0])}</th>'], line[1:]) for line in lines[1:]]
    pictures = [f"<figure><figcaption>{safe(name)}</figcaption>\n{svg}</figure>" for name, svg in drawn if svg]
    grid = "<h2>Pictures</h2>\n" + "\n".join(
        f'<div class="charts">\n{"".join(pair)}\n</div>' for pair in (pictures[:2], pictures[2:])
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Ladder</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>\n<main>\n<h1>Ladder</h1>\n"
        f'<p class="quiet">Students of {safe(teacher["name"])} ({teacher["test"]:.2f}). '
        f"Hollow, without *: another is better in every way. {safe(marks)}.</p>\n"
        f"{table(heading(lines[0][:1], lines[0][1:]), body)}\n{grid}\n</main>\n</body>\n</html>\n"
    )
