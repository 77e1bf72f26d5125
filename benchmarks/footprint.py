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
    """A new environment with `attar[cpu]` alone, from wheels, so that no compiler is needed; its python."""
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    before, bare = size(folder), size(folder, compiled=False)
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--only-binary",
        ":all:",
        "-c",
        str(root / "constraints.txt"),
        f"{root}[cpu]",
    ]
    subprocess.run(command, check=True)
    everything = (size(folder) - before) / 2**20
    packages = (size(folder, compiled=False) - bare) / 2**20
    print(f"installed: {packages:.1f} MiB; with the byte code that pip compiles {everything:.1f} MiB (pip left out)")
    return python


def size(folder: Path, compiled: bool = True) -> int:
    """Bytes of all files, with or without compiled byte code."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sum(p.stat().st_size for p in files if compiled or p.suffix != ".pyc")


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
