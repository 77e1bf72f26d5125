"""The coordinator's side of one worker process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from attar.runtime.bundle import MANIFEST, is_bundle
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import AttarError, MissingExtraError, SettingsError

_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


def module_for(path: Path) -> str:
    """The worker module for a folder; named, not imported, because the runtime must not know torch."""
    if is_bundle(path):
        return "attar.runtime.bench.worker"
    if (path / "config.json").is_file():
        return "attar.distill.bench_worker"
    raise SettingsError(
        f"nothing to benchmark at {path}: it should be a bundle ({MANIFEST}) or a Hugging Face folder (config.json)"
    )


WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Subject:
    """A system that is to be measured: its name, the module that is its worker, and that module's arguments.

    `size_mb` is what is deployed of it: all files of a bundle, the weights of a Hugging Face folder.
    """

    name: str
    module: str
    arguments: tuple[str, ...]
    size_mb: float | None = None


def subject(path: Path, name: str, max_length: int, arguments: Sequence[str] = ()) -> Subject:
    """A bundle, or a Hugging Face folder that is to read `max_length` tokens, as users have them."""
    module = module_for(path)
    if module.startswith("attar.runtime"):
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        return Subject(name, module, (str(path), *arguments), sum(file.stat().st_size for file in files) / 1e6)
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "bench")
    size = sum(file.stat().st_size for pattern in WEIGHTS for file in path.glob(pattern)) / 1e6
    return Subject(name, module, (str(path), "--max-length", str(max_length), *arguments), size or None)


def engine_of(choice: Choice) -> tuple[str, ...]:
    """The arguments by which a bundle's worker gets its engine."""
    return ("--choice", json.dumps(asdict(choice)))


class Worker:
    """A system in a process of its own, as a context manager; an error there is an `AttarError` here."""

    def __init__(self, subject: Subject, threads: int) -> None:
        command = [sys.executable, "-P", "-m", subject.module, *subject.arguments, "--threads", str(threads)]
        self.subject, self.name = subject, subject.name
        # A file and not a pipe: nobody reads it while the worker runs, and a full pipe would block it.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=_environment(threads),
            encoding="utf-8",
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        process = self._process
        if process.poll() is None and kind is not None:
            process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()  # the end of its stdin stops a healthy worker
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._stderr.close()

    def ask(self, op: str, parts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Sends one request, with the parts that `protocol.py` names for it, and waits for its reply."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        request = {"op": op, **(parts or {})}
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if not line:
            code = self._process.wait()
            raise AttarError(f"benchmark worker for {self.name} died during {op!r} (exit {code}): {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise AttarError(f"{self.name}: {reply['error']}")
        return reply

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def _environment(threads: int) -> dict[str, str]:
    """This process's environment with equal thread pools and the import path of this attar."""
    root = str(Path(__file__).parents[3])
    found = os.environ.get("PYTHONPATH")
    fixed = {name: str(threads) for name in _POOLS}
    fixed |= {"PYTHONPATH": root if not found else root + os.pathsep + found, "PYTHONUTF8": "1"}
    return {**os.environ, **fixed, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
