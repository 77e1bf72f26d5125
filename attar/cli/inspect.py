"""`attar inspect`: what a bundle says of itself."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from attar.runtime.bundle import Bundle
    from attar.runtime.tasks.base import Task

HELP = "Show what a bundle is: task, labels, sizes, lineage and gate."
EXAMPLE = "attar inspect build/sentiment/bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle: a folder, or a zip of it")
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON line")


def run(args: argparse.Namespace) -> int:
    """Print the summary of a bundle whose hashes hold; no engine is needed for it."""
    from attar.runtime.bundle import Bundle

    bundle = Bundle.read(args.bundle)
    if args.json:
        print(json.dumps({**bundle.manifest.to_json(), "size": bundle.size}))
    else:
        from attar.runtime.engines.auto import remembered

        print("\n".join([summary(bundle), *(f"engine   {found}" for found in remembered(bundle))]))
    return 0


def summary(bundle: Bundle) -> str:
    """The manifest in words; sizes in bytes and MiB."""
    manifest = bundle.manifest
    lines = [
        f"name     {manifest.name}",
        f"task     {_task(manifest.task)}",
        f"scheme   {manifest.scheme}",
        "limits   " + ", ".join(f"{key} {value}" for key, value in sorted(manifest.limits.items())),
        f"size     {_size(bundle.size)}",
    ]
    lines += [f"         {name}: {_size(record['size'])}" for name, record in sorted(manifest.files.items())]
    lines += [f"requires {key}: {value}" for key, value in sorted(manifest.requires.items())]
    lines += ["lineage  " + ("" if manifest.lineage else "not recorded")]
    lines += [f"  {number}. {_step(step)}" for number, step in enumerate(manifest.lineage, 1)]
    return "\n".join([*(line.rstrip() for line in lines), f"gate     {gate_sentence(manifest.gate)}"])


def gate_sentence(gate: Mapping[str, Any] | None) -> str:
    """The verdict in one line, in the words of the gate itself."""
    from attar.compress.gate import VerdictRecord, sentence

    if gate is None:
        return "no accuracy gate was run on this bundle"
    if VerdictRecord.__required_keys__ <= gate.keys():
        return sentence(cast(VerdictRecord, gate))
    return ", ".join(f"{key} {value}" for key, value in gate.items())


def _task(task: Task) -> str:
    """The task and what its outputs are called."""
    from attar.runtime.tasks.multi import MultiTask

    if isinstance(task, MultiTask):
        return "; ".join([task.kind, *(f"{name}: {_task(part)}" for name, part in task.parts)])
    labels = getattr(task, "labels", ()) or getattr(task, "tags", ())
    return f"{task.kind}, {len(labels)} labels: {', '.join(labels)}" if labels else task.kind


def _step(step: Mapping[str, Any]) -> str:
    """One line for a lineage step: what it used, then its other entries."""
    title = next((str(step[key]) for key in ("use", "step", "name") if key in step), "step")
    rest = [f"{k} {json.dumps(v, ensure_ascii=False)}" for k, v in step.items() if k not in ("use", "step", "name")]
    return f"{title} ({', '.join(rest)})" if rest else title


def _size(count: int) -> str:
    return f"{count} bytes ({count / 2**20:.2f} MiB)"
