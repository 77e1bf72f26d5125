"""`engine="auto"`: the fastest of the engines that run a bundle on this machine, measured once and remembered.

Each is started and must reproduce the golden inputs; one that cannot is left out, with its reason. No engine changes
the precision that the gate has judged: OpenVINO's bf16 is not among them. What was found is kept in the user's cache
(`$ATTAR_CACHE`), by bundle, machine, versions and threads, and told to the log `attar.runtime.engines.auto`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from attar.runtime.bundle import Bundle
from attar.runtime.cache import cache_folder, keep
from attar.runtime.cpu import machine, usable_cores
from attar.runtime.engines.starting import Choice
from attar.runtime.errors import AttarError, SettingsError
from attar.runtime.version import __version__

if TYPE_CHECKING:
    from attar.runtime.model import Model

CANDIDATES = tuple(
    Choice(*place)
    for place in (("onnx", "cpu"), ("openvino", "cpu"), ("onnx", "cuda"), ("onnx", "tensorrt"), ("tensorrt", "cuda"))
)
PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
SHAPES = ((1, 16), (1, 64), (8, 64))
"""Texts and tokens of the batches that are timed, as far as the bundle reads them; each round takes a token off, for
users send ever other lengths, and some engines are slow where a shape is new."""
ROUNDS = 5
SECONDS = 3.0
"""After so many, no further round is begun but the second, which is always there."""
PAUSE = 0.02
"""Seconds before each turn, in which the idle threads of the other engine stop spinning."""

log = logging.getLogger(__name__)


def fastest(bundle: Bundle, device: str | None, threads: int | None, proved: Callable[[Choice], Model]) -> Model:
    """The model on its fastest engine; `proved` starts one and replays the golden inputs.

    Raises:
        SettingsError: no engine runs the bundle on the device; with all their reasons.
    """
    here = _here(bundle, device, threads)
    path = _folder(bundle) / f"{_digest(here)}.json"
    known = _read(path)
    if known is not None:
        try:
            return proved(Choice(known["engine"], known["device"]))
        except AttarError as error:
            log.warning(
                "%s on %s no longer runs the bundle (%s): measuring anew", known["engine"], known["device"], error
            )
    running: dict[Choice, Model] = {}
    left_out: dict[str, str] = {}
    for choice in CANDIDATES:
        if device in (None, choice.device):
            try:
                running[choice] = proved(choice)
            except AttarError as error:
                left_out[choice.words] = str(error)
    if not running:
        reasons = "; ".join(f"{words}: {reason}" for words, reason in left_out.items())
        raise SettingsError(f"no engine runs this bundle here: {reasons}")
    times = measure(running)
    best = min(times, key=times.__getitem__)
    record = {
        "engine": best.engine, "device": best.device, "left_out": left_out, "here": here,
        "milliseconds": {choice.words: round(value, 4) for choice, value in times.items()},
    }  # fmt: skip
    keep(path, json.dumps(record, indent=1).encode())
    log.info("%s", sentence(record))
    return running[best]


def measure(models: Mapping[Choice, Model]) -> dict[Choice, float]:
    """Milliseconds of each: the geometric mean over shapes of the median of interleaved rounds, back and forth."""
    some = next(iter(models.values()))
    most, longest = some.manifest.limits["max_batch"], some.task.max_length
    shapes = sorted({(min(rows, most), min(length, longest)) for rows, length in SHAPES})
    spent: dict[Choice, list[list[float]]] = {choice: [[] for _ in shapes] for choice in models}
    end = time.monotonic() + SECONDS
    for number in range(-1, ROUNDS):  # what is timed in the first one, before 0, is setting up
        if number >= 2 and time.monotonic() > end:
            break
        for choice in sorted(models, key=CANDIDATES.index, reverse=bool(number % 2)):
            time.sleep(PAUSE)
            for place, (rows, length) in enumerate(shapes):
                start = time.perf_counter()
                models[choice].try_shape(rows, max(1, length - number - 1))
                spent[choice][place].append(time.perf_counter() - start)
    return {
        choice: 1000 * math.prod(median(times[1:]) for times in found) ** (1 / len(shapes))
        for choice, found in spent.items()
    }


def remembered(bundle: Bundle) -> list[str]:
    """What was found for this bundle by this user, a sentence each."""
    found = (_read(path) for path in sorted(_folder(bundle).glob("*.json")))
    return [sentence(record) for record in found if record is not None]


def sentence(record: Mapping[str, Any]) -> str:
    """What was measured, in words."""
    here = record["here"]
    shown = ", ".join(f"{words} {value:.3g} ms" for words, value in record["milliseconds"].items())
    best = f"{record['engine']} on {record['device']}"
    said = f"{best} is the fastest with {here['threads']} threads of {here['cpu']}: {shown}"
    # What a message says behind its colon is what to do about it.
    reasons = "; ".join(f"{words}: {reason.partition(': ')[0]}" for words, reason in record["left_out"].items())
    return f"{said}. Left out: {reasons}" if reasons else said


def _here(bundle: Bundle, device: str | None, threads: int | None) -> dict[str, Any]:
    """All that a measurement depends on."""
    return {
        "device": device or "any", "threads": threads or usable_cores(), **machine(), "attar": __version__,
        "gpus": sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*")),
        "packages": {name: _version(name) for name in PACKAGES},
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _folder(bundle: Bundle) -> Path:
    return cache_folder() / "choices" / _digest(bundle.manifest.to_json())


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any] | None:
    """A kept record; None where there is none that can be read."""
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        whole = {"engine", "device", "milliseconds", "left_out", "here"} <= record.keys()
        return record if whole and isinstance(record["engine"], str) and isinstance(record["device"], str) else None
    except (OSError, ValueError, AttributeError):
        return None
