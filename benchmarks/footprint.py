"""Size of a torch-free install, and the time from a new process to the first answer.

python benchmarks/footprint.py build/sentiment/bundle
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

FIRST_ANSWER = """
import time; start = time.perf_counter()
import attar
model = attar.load({bundle!r})
model("a gripping, funny film")
import sys
assert "torch" not in sys.modules
print(time.perf_counter() - start)
"""


def install(folder: Path) -> Path:
    """A new environment with `attar[cpu]` alone; its python."""
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    before = size(folder)
    command = [str(python), "-m", "pip", "install", "-q", "-c", str(root / "constraints.txt"), f"{root}[cpu]"]
    subprocess.run(command, check=True)
    print(f"installed: {(size(folder) - before) / 2**20:.0f} MiB (pip itself left out)")
    return python


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def main() -> None:
    bundle = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        python = install(Path(scratch) / "env")
        code = FIRST_ANSWER.format(bundle=bundle)
        times = [
            float(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=scratch).stdout)
            for _ in range(7)
        ]
    record = {"first_answer_s": round(median(times[1:]), 3), "coldest_s": round(max(times), 3)}
    print(f"import, load, first answer: {record['first_answer_s']} s (median of 6), {times[0]:.3f} s the first time")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
