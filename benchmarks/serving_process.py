"""What the measurements of benchmarks/serving.py share: a server in a process of its own, its load in another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def load(self, bodies: Sequence[str], seconds: float, **plan: Any) -> dict[str, Any]:
        """What the load generator found; see serving_load.py."""
        with self.start_load(bodies, seconds, **plan) as process:
            found: dict[str, Any] = json.loads(process.communicate()[0])
        return found

    def start_load(self, bodies: Sequence[str], seconds: float, **plan: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("serving_load.py"))]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        fixed = {"host": self.host, "port": self.port, "path": "/predict", "bodies": bodies, "seconds": seconds}
        assert process.stdin is not None
        process.stdin.write(json.dumps(fixed | plan))
        process.stdin.close()
        process.stdin = None  # so that communicate() only reads
        return process

    def resident(self) -> float:
        """Megabytes of resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def proportional(self) -> list[float]:
        """Megabytes of memory of each process, the first one's workers after it; what n share counts as an nth."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found = [Path(f"/proc/{p}/smaps_rollup").read_text().partition("\nPss:")[2] for p in (pid, *children)]
        return [int(text.split()[0]) / 1024 for text in found]


def start(bundle: Path, *flags: object) -> Served:
    """`attar serve` on a free port, when it is ready."""
    command = [sys.executable, "-m", "attar", "serve", str(bundle), "--port", "0", *map(str, flags)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://(\S+):(\d+)", process.stderr.readline())
    if found is None:
        raise SystemExit(process.stderr.read())
    return Served(process, found[1], int(found[2]))


@contextmanager
def serving(bundle: Path, *flags: object) -> Iterator[Served]:
    served = start(bundle, *flags)
    try:
        yield served
    finally:
        served.process.terminate()
        served.process.communicate()
