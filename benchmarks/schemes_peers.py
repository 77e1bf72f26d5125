"""Other quantizers, each in an environment of its own: they are given two files and write one.

A peer is one file of benchmarks/peers/. The first line of its docstring says what it does, and the lines of it that
begin with `pip install` make its environment; without such lines it runs in attar's own.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from attar.runtime.errors import AttarError
from benchmarks.environment import interpreter as made
from benchmarks.environment import run

PEERS = Path(__file__).resolve().parent / "peers"
SOURCE, CALIBRATION, TARGET = "request.onnx", "calibration.npz", "answer.onnx"


def known() -> list[str]:
    """The peers by the names that pip knows them by."""
    return sorted(path.stem.removeprefix("by_").replace("_", "-") for path in PEERS.glob("by_*.py"))


def script(name: str) -> Path:
    return PEERS / f"by_{name.replace('-', '_')}.py"


def docstring(name: str) -> list[str]:
    """The lines of a peer's docstring; its imports are not to be had here."""
    return (ast.get_docstring(ast.parse(script(name).read_text(encoding="utf-8"))) or "").splitlines()


def installs(name: str) -> list[list[str]]:
    """The arguments of each `pip install` that makes a peer's environment, in order."""
    return [line.split()[2:] for line in docstring(name) if line.startswith("pip install ")]


def label(name: str) -> str:
    """How the table names a peer: with its version and what it does."""
    pins = dict(word.split("==") for command in installs(name) for word in command if "==" in word)
    what = docstring(name)[0].rstrip(".")
    return f"{name} {pins.get(name) or version(name)}: {what[0].lower()}{what[1:]}"


def request(folder: Path, fp32: bytes, rows: Sequence[Sequence[int]]) -> None:
    """Writes what peers are given: the fp32 model, and token ids of calibration texts."""
    # Most peers know no shapes behind ONNX Runtime's own nodes (attention, Gelu), so the model says them.
    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load_from_string(fp32)), folder / SOURCE)
    np.savez(folder / CALIBRATION, *(np.array(row, dtype=np.int64) for row in rows))


def quantized(name: str, folder: Path, environments: Path) -> bytes:
    """The model that a peer makes of the request in the folder; `AttarError` says in a line why there is none."""
    python = interpreter(name, environments / name)
    (folder / TARGET).unlink(missing_ok=True)
    run([str(python), str(script(name)), SOURCE, CALIBRATION, TARGET], "fails", folder)
    if not (folder / TARGET).is_file():
        raise AttarError(f"{name} fails: it wrote no model")
    return (folder / TARGET).read_bytes()


def interpreter(name: str, environment: Path) -> Path:
    """The Python of a peer: attar's own where it asks for none."""
    commands = installs(name)
    return made(environment, commands) if commands else Path(sys.executable)
