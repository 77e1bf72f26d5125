"""The table of tasks in the README: runs the recipes (what is cached is not run again) and prints Markdown.

python benchmarks/tasks.py                          # every recipe of RECIPES, into build/NAME
python benchmarks/tasks.py snips wnut17 --out DIR
python benchmarks/tasks.py --json FILE              # the record of the table, for benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Record, cells

RECIPES = ("clinc150", "snips", "wnut17", "subjqa", "ratings", "embeddings", "sentiment")
HEADER = (
    "| recipe | task | measure on test | teacher | int8 student | difference (95 % bound) | gate "
    "| throughput | single texts, p50 | MB |\n|---|---|---|---|---|---|---|---|---|---|"
)


def run(recipe: Path, out: Path) -> dict[str, Any]:
    """The report of one recipe; a gate that is not passed is part of the result."""
    subprocess.run(
        [sys.executable, "-m", "attar", "run", str(recipe), "--out", str(out), "--allow-failed-gate"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def rows(report: dict[str, Any]) -> list[str]:
    """A line a measure: the ones that the gate judges carry its verdict."""
    gate = report["gate"]
    judged = {g["measure"]: g for g in gate.get("measures", [gate])}
    ratios = {r["metric"]: r for r in report["bench"]["ratios"] if r["name"] == "teacher"}
    speeds = [f"{r['ratio']:.1f}x [{r['low']:.1f}, {r['high']:.1f}]" for r in (ratios["throughput"], ratios["p50"])]
    found = []
    for number, (name, teacher) in enumerate(report["measures"]["teacher"].items()):
        student, verdict = report["measures"]["student"][name], judged.get(name)
        bound = f" ({verdict['lower_bound']:+.1f})" if verdict else ""
        outcome = f"{verdict['verdict']} at {verdict['margin']:g}" if verdict else "reported"
        first = [report["title"], report["task"]["kind"]] if number == 0 else ["", ""]
        last = [*speeds, f"{report['bundle']['size_mb']:.1f}"] if number == 0 else ["", "", ""]
        cells = [*first, name, f"{teacher:.2f}", f"{student:.2f}", f"{student - teacher:+.2f}{bound}", outcome, *last]
        found.append("| " + " | ".join(cells) + " |")
    return found


def confidence(report: dict[str, Any]) -> str | None:
    """What a classifier's score is worth, in a sentence."""
    known = report.get("confidence") or {}
    if "ece" not in known:
        return None
    line = (
        f"{report['title']}: expected calibration error on test {known['ece_uncalibrated']:.4f} before and "
        f"{known['ece']:.4f} after the temperature {known['temperature']:g} fitted on dev"
    )
    if known.get("auroc") is not None:
        both = f"student {known['auroc']:.2f}, teacher {known['auroc_teacher']:.2f}"
        line += f"; AUROC against texts of no class: {both}"
    return line + "."


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="NAME", help="files in recipes/, without .toml")
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="where the runs lie (build)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record of the table")
    chosen = parser.parse_args(argv)
    folder = Path(__file__).parent.parent / "recipes"
    reports = [run(folder / f"{name}.toml", chosen.out / name) for name in chosen.recipes]
    table = [line for report in reports for line in rows(report)]
    said = [line for report in reports if (line := confidence(report))]
    print("\n".join([HEADER, *table]) + "\n\n" + "\n\n".join(said))
    note = " ".join(["Points on test; speed against the teacher in PyTorch fp32, with 95 % intervals.", *said])
    Record("Tasks", cells(HEADER.splitlines()[0]), [cells(line) for line in table], note, reports).write(chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
