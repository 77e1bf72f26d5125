"""A training that goes on where it was killed: its last checkpoint, and the key that says whose it is."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attar.distill.device import CPU
from attar.runtime.version import __version__

FILE = "checkpoint.pt"
SEAL = 32
"""Bytes of the sha256 that ends the file: a flipped bit in a weight would go unseen by the format itself."""


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its last checkpoint, and after how many seconds it writes the next (0: at every step)."""

    folder: Path
    every: float = 120.0


class Keeper:
    """Writes and finds the checkpoint of one training.

    Args:
        where: the folder and the interval.
        module: everything that learns or is carried from batch to batch, as parameters and buffers, in the state that
            training starts from.
        about: what else decides the outcome, as JSON: settings, digests of the data.
    """

    def __init__(self, where: Checkpoints, module: nn.Module, about: Any) -> None:
        self.file = where.folder / FILE
        self.trouble = ""
        self._every, self._module = where.every, module
        self._key = _key(module, about)
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self._last >= self._every

    def save(self, standing: Mapping[str, Any], optimiser: torch.optim.Optimizer, rng: random.Random) -> None:
        """Written aside and renamed, so that a kill leaves the checkpoint before it.

        A disk that is full must not end the training that it was to protect: what went wrong is left in `trouble`.
        """
        record = {
            "key": self._key,
            "standing": dict(standing),
            "parameters": {n: p.detach() for n, p in self._module.named_parameters() if p.requires_grad},
            "buffers": dict(self._module.named_buffers()),
            "optimiser": optimiser.state_dict(),
            "random": {**_random_states(), "batches": rng.getstate()},
        }
        part = self.file.with_suffix(".part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(record, part)
            seal = _seal(part, part.stat().st_size)
            with part.open("ab") as file:
                file.write(seal)
            part.replace(self.file)
            self.trouble = ""
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            with suppress(OSError):
                part.unlink(missing_ok=True)
            self.trouble = f"no checkpoint could be written to {self.file.parent} ({str(error).splitlines()[0]})"
        self._last = time.monotonic()

    def resume(self, optimiser: torch.optim.Optimizer, rng: random.Random) -> tuple[dict[str, Any] | None, str]:
        """The standing at the checkpoint, with everything else set back to it; None, and why, where none is used."""
        if not self.file.is_file():
            return None, ""
        try:
            found = self._read()
        except Exception as error:  # a damaged file fails in many ways, and none may stop a training
            return None, f"warning: {self.file} is damaged ({type(error).__name__}): training starts anew"
        if found["key"] != self._key:
            return None, f"note: {self.file} belongs to another training: this one starts anew"
        own = dict(self._module.named_parameters())
        with torch.no_grad():
            for name, value in found["parameters"].items():
                own[name].copy_(value)
        before = dict(self._module.named_buffers())
        for name, value in found["buffers"].items():
            owner, _, last = name.rpartition(".")
            # Not copied into: a queue changes its size.
            setattr(self._module.get_submodule(owner), last, value.to(before[name].device))
        optimiser.load_state_dict(found["optimiser"])
        rng.setstate(found["random"].pop("batches"))
        _set_random_states(found["random"])
        standing: dict[str, Any] = found["standing"]
        return standing, ""

    def remove(self) -> None:
        """Training is done: nothing is left of the checkpoint."""
        if self.file.parent.is_dir():
            self.file.with_suffix(".part").unlink(missing_ok=True)
            self.file.unlink(missing_ok=True)
            with suppress(OSError):  # something else lies in the folder
                self.file.parent.rmdir()

    def _read(self) -> dict[str, Any]:
        size = self.file.stat().st_size - SEAL
        with self.file.open("rb") as file:
            file.seek(max(0, size))
            if file.read() != _seal(self.file, size):
                raise ValueError("the file is not what was written")
        # No code of the file is run; and what a GPU wrote goes on where there is none.
        found: dict[str, Any] = torch.load(self.file, weights_only=True, map_location=CPU)
        return found


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 over named arrays, which may lie on disk."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        for start in range(0, len(arrays[name]), 1 << 16):
            state.update(np.ascontiguousarray(arrays[name][start : start + (1 << 16)]).tobytes())
    return state.hexdigest()


def _key(module: nn.Module, about: Any) -> str:
    """A hash of the weights that training starts from, frozen ones included, and of what else decides the outcome."""
    weights = {name: _bytes(value) for name, value in module.state_dict().items()}
    raw = json.dumps([__version__, torch.__version__, about, digest(weights)], sort_keys=True, default=str)
    return hashlib.sha256(raw.encode()).hexdigest()


def _bytes(value: Tensor) -> NDArray[Any]:
    """A tensor of any type, bf16 included, as bytes without a copy."""
    found: NDArray[Any] = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _seal(path: Path, size: int) -> bytes:
    """The sha256 of the first `size` bytes of a file."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, 1 << 20))):
            state.update(chunk)
            size -= len(chunk)
    return state.digest()


def _random_states() -> dict[str, Any]:
    """The generators that dropout and methods draw from."""
    name, keys, *rest = np.random.get_state(legacy=True)
    numpy = (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest)
    found = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy}
    return {**found, "cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else found


def _set_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
