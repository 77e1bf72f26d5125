"""Where networks are trained and asked: on the CPU, or on a GPU where PyTorch finds one.

A network goes to the device for as long as it works there, and a student comes back to the CPU at the end of a step.
What it reads or is compared with goes to where it is. fp32 means fp32 on a GPU too: PyTorch leaves TF32 out of matrix
products unless it is told otherwise, and a GPU that has TF32 has bf16, which training prefers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from attar.runtime.errors import AttarError, SettingsError

CPU = torch.device("cpu")


def chosen(name: str) -> torch.device:
    """The device behind `cpu`, `cuda` or `auto`: a GPU where PyTorch finds one, else the CPU.

    Of several processes each gets a GPU of its own, by the number on its machine that launchers give it.
    `SettingsError` where a GPU is asked for and not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise SettingsError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU here; install a PyTorch with CUDA and the GPU's "
            "driver, or say --device cpu"
        )
    own, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= count:
        raise SettingsError(
            f"process {own + 1} of this machine has no GPU of its own, for PyTorch finds {count}; start one process a "
            "GPU, or say --device cpu"
        )
    torch.cuda.set_device(own)
    return torch.device("cuda", own)


def described(device: torch.device) -> str:
    """For lineage and report: `cpu`, or `cuda` and the GPU's name."""
    return "cpu" if device.type == "cpu" else f"{device.type} ({torch.cuda.get_device_name(device)})"


def device_of(network: nn.Module) -> torch.device:
    """Where a network is, by its first parameter."""
    return next(network.parameters()).device


@contextmanager
def within_memory() -> Iterator[None]:
    """`AttarError` where a GPU has too little memory for what is done within."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise AttarError(
            f"the GPU has too little memory ({str(error).splitlines()[0]}); lower batch_size or max_length, or say "
            "--device cpu"
        ) from error


def full(x: Tensor) -> torch.autocast:
    """Within, what lies where `x` does is computed in the precision that it has, under autocast too."""
    return torch.autocast(x.device.type, enabled=False)
