"""Writes benchmarks/RESULTS.md from the records in benchmarks/results/, each written by the command that it names.

python benchmarks/results.py            # writes
python benchmarks/results.py --check    # exit status 1 where RESULTS.md is not what the records say

A benchmark writes its record with --json benchmarks/results/NAME.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attar.runtime.errors import DataError

HERE = Path(__file__).resolve().parent
HEAD = """# Results

Made by `python benchmarks/results.py` from `benchmarks/results/*.json`; every table names the command that measured it.
What was tried, and why figures are what they are, is in [NOTES.md](NOTES.md).
"""
FIELDS = ("title", "columns", "rows", "note", "command", "date", "machine", "versions")


def read(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The records by their names, in order; `DataError` names the file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path.name} is not JSON ({error}); run its benchmark again with --json") from error
        missing = [name for name in FIELDS if name not in record] if isinstance(record, dict) else list(FIELDS)
        if missing:
            raise DataError(f"{path.name} has no {missing[0]}; run its benchmark again with --json")
        if wrong := [row for row in record["rows"] if len(row) != len(record["columns"])]:
            raise DataError(f"{path.name}: {wrong[0]} has {len(wrong[0])} cells for {len(record['columns'])} columns")
        found.append((path.stem, record))
    return found


def markdown(records: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The page."""
    return "\n".join([HEAD, *(section(name, record) for name, record in records)])


def section(name: str, record: Mapping[str, Any]) -> str:
    """One table, with all that belongs to its numbers."""
    lines = [f"## {record['title']}", ""]
    lines += [row(record["columns"]), "|" + "---|" * len(record["columns"]), *map(row, record["rows"]), ""]
    lines += [record["note"], ""] if record["note"] else []
    machine, versions = record["machine"], record["versions"]
    cpu = f"{machine['cpu']}, {machine['cores']} cores ({machine['instruction_sets']}), {machine['os']}"
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines += [f"{record['date']}; {cpu}; Python {machine['python']}; {packages}. Record: `results/{name}.json`.", ""]
    return "\n".join([*lines, f"    {record['command']}", ""])


def row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing, and say whether the file is up to date")
    args = parser.parse_args(argv)
    try:
        page = markdown(read(args.records))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not args.check:
        args.out.write_text(page, encoding="utf-8")
    elif not args.out.is_file() or args.out.read_text(encoding="utf-8") != page:
        print(f"error: {args.out.name} is not what the records say: run python benchmarks/results.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
