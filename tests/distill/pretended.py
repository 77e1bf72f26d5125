"""A GPU that is not there: tensors stay in the CPU's memory, and are held to the rules of a GPU.

While open, a tensor moved to `GPU` says that it is there, and so does all that is computed of it. What PyTorch refuses
with a real GPU is refused here: an operation that mixes tensors of the two, unless the one on the CPU is a single
number, an index or the source of a copy; and NumPy's reading of what lies on the GPU. Numbers come out as on the CPU,
bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")
NAME = "Pretended"
DEVICE = Tensor.device.__get__  # type: ignore[attr-defined]  # a descriptor
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
PACKING = "_pack_padded_sequence"
"""Wants the lengths of the rows on the CPU, and gives the sizes of its batches there."""


class There:
    """What lies on the pretended GPU: memory, which views and detached tensors share. `casts`: where autocast was
    said to be."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}  # held, so that no other tensor comes to lie at the same place
        self.casts: set[str] = set()

    def holds(self, tensor: Tensor) -> bool:
        return tensor.layout is torch.strided and tensor.untyped_storage()._cdata in self.memory

    def take(self, found: Any) -> None:
        for tensor in tensors(found):
            storage = tensor.untyped_storage()
            self.memory[storage._cdata] = storage

    def moved(self, tensor: Tensor, device: torch.device | None, dtype: torch.dtype | None = None) -> Tensor:
        """A copy on the device, always: memory mapped from a file is aligned otherwise, by which sums may differ."""
        result = tensor if dtype is None else tensor.to(dtype)
        if device is None:
            return result
        result = result.clone()
        if device == GPU:
            self.take(result)
        else:
            self.memory.pop(result.untyped_storage()._cdata, None)
        return result


def tensors(*given: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]


class Rules(TorchDispatchMode):
    """Sees every operation, those of the backward pass and of the optimiser included."""

    def __init__(self, there: There) -> None:
        super().__init__()
        self.there = there

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, there = func.overloadpacket.__name__, self.there
        given = tensors(args, kwargs)
        if name in INDEXING:
            given = tensors(args[0], *args[2:], [x for x in tensors(args[1]) if there.holds(x)])
        away = any(there.holds(x) for x in given)
        if away and name not in ("copy_", PACKING) and any(x.dim() and not there.holds(x) for x in given):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device")
        found = func(*args, **(kwargs or {}))
        if away:  # the target of a copy too: PyTorch fills so what it has made empty, for which device it does not say
            there.take(found[0] if name == PACKING else found)
        return found


class Moves(TorchFunctionMode):
    """What Python asks of a tensor's device: where it is, and to be somewhere else."""

    def __init__(self, there: There) -> None:
        super().__init__()
        self.there = there

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        there, kwargs = self.there, dict(kwargs or {})
        if func == DEVICE and there.holds(args[0]):
            return GPU
        if func is Tensor.to and not isinstance(args[1] if len(args) > 1 else None, Tensor):
            return there.moved(args[0], *torch._C._nn._parse_to(*args[1:], **kwargs)[:2])
        if func is Tensor.cpu:
            return there.moved(args[0], CPU)
        if func is Tensor.numpy and there.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == GPU:
            there.take(found := func(*args, **(kwargs | {"device": None})))
            return found
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[There]:
    """While open, there is a GPU."""
    there = There()

    def autocast(device: str, *given: Any, **options: Any) -> AbstractContextManager[None]:
        there.casts.add(device)
        return nullcontext()

    tag = torch.serialization.location_tag  # type: ignore[attr-defined]  # torch does not declare it

    def tagged(storage: Any) -> str:
        return str(GPU) if storage._cdata in there.memory else str(tag(storage))

    with pytest.MonkeyPatch.context() as patch, Rules(there), Moves(there):
        patch.setattr(torch, "autocast", autocast)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
        patch.setattr(torch.cuda, "get_device_name", lambda device: NAME)
        patch.setattr(torch.serialization, "location_tag", tagged)
        yield there
