"""Several processes that train one model, started by `torchrun` or `accelerate launch`.

Every process sees the same batches in the same order, runs the network on its share of the rows, and is given what the
network made of the rows of the others. So each computes the loss of the whole batch, whatever that compares or
averages over, and keeps the same memory from batch to batch; only the gradients are shared out. The first process
(rank 0) does everything beside training while the others wait.

Collectives run over gloo between CPUs and over NCCL between GPUs, by where a tensor lies; objects and barriers go over
gloo in either case. Outside of `joined` there is but one process, and nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from attar.distill.heads import Outputs
from attar.runtime.errors import AttarError

PATIENCE = timedelta(days=7)
"""The others wait as long as the first one works; a process that is gone is noticed at once, by its closed socket, or
between GPUs by the launcher, which ends the others."""
FAILED = 2
T = TypeVar("T")


class ProcessError(AttarError):
    """Another process is gone, or does not do the same."""


class _Alone:
    """Whether this process works by itself at the moment, as if there were no others."""

    now = False


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that a launcher has started, by the environment that it has set.

    The first process that fails raises its error; the others end without a word, with exit code `FAILED`.
    """
    try:
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group(_backend(), store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the processes do not find each other ({str(error).splitlines()[0]})") from error
    try:
        yield
    except BaseException as error:
        if not _first_to_fail(store):
            raise SystemExit(FAILED) from error
        raise
    finally:
        dist.destroy_process_group()


def _backend() -> str:
    """What carries tensors between the processes, by where they lie. NCCL touches no GPU before it is needed."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def _first_to_fail(store: Any) -> bool:
    try:
        return bool(store.add("attar/failed", 1) == 1)
    except RuntimeError:  # it went with the first process, which has said why
        return False


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process trains by itself: what the others have no part in."""
    before, _Alone.now = _Alone.now, True
    try:
        yield
    finally:
        _Alone.now = before


def several() -> bool:
    """Whether other processes take part."""
    return not _Alone.now and dist.is_initialized() and dist.get_world_size() > 1


def leads() -> bool:
    """Whether this is the only process, or the first of several: the one that writes and speaks."""
    return not several() or dist.get_rank() == 0


@contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"another process is gone ({str(error).splitlines()[0]}); the same command goes on from what was finished"
        ) from error


def wait() -> None:
    """Until all processes are here."""
    if several():
        with _lost():
            dist.barrier()


def told(value: T) -> T:
    """What the first process says; what the others give is not used."""
    if not several():
        return value
    box = [value]
    with _lost():
        dist.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def in_turn() -> Iterator[None]:
    """The first process goes first; the others follow when it is done, and find what it has made."""
    if not leads():
        wait()
    yield
    if leads():
        wait()


def agree(value: Any, what: str) -> None:
    """`ProcessError` where not all processes have the same value."""
    if several():
        found: list[Any] = [None] * dist.get_world_size()
        with _lost():
            dist.all_gather_object(found, value)
        if any(other != value for other in found):
            raise ProcessError(
                f"the processes differ in {what}: {', '.join(map(str, found))}; give them the same arguments, and an "
                "--out on a disk that all of them see"
            )


def outputs_of(
    network: Callable[..., Outputs], inputs: Sequence[Tensor | None], inner: dict[str, Tensor] | None = None
) -> Outputs:
    """What the network makes of a batch, of which each process computes its share of the rows.

    `inputs` are (B, ..); the outputs, and those of watched modules in `inner`, are (B, ..) too, in every process. A
    gradient goes back through the own rows alone, as large as `mean_gradients` needs it.
    """
    if not several():
        return network(*inputs)
    rows = next(len(x) for x in inputs if x is not None)
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    # A batch may have fewer rows than there are processes: one without a row computes the first, and gives nothing.
    taken = mine if dist.get_rank() < rows else slice(0, 1)
    with _own_draws():
        found = network(*(None if x is None else x[taken] for x in inputs))

    def whole(own: Tensor) -> Tensor:
        own = own[: len(range(rows)[mine])]
        result: Tensor = _Whole.apply(own, rows, mine)  # type: ignore[no-untyped-call]  # torch's own
        return result

    if inner is not None:
        inner.update({name: whole(inner[name]) for name in inner})
    return Outputs({name: whole(x) for name, x in found.heads.items()}, tuple(whole(x) for x in found.hidden))


class _Whole(torch.autograd.Function):
    """The rows of every process, (b, ..) -> (B, ..), of which the own ones lie at `mine`."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int, mine: slice) -> Tensor:
        ctx.mine = mine
        result = own.new_zeros(rows, *own.shape[1:])
        result[mine] = own
        with _lost():
            dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.mine] * dist.get_world_size(), None, None


@contextmanager
def _own_draws() -> Iterator[None]:
    """Dropout differs between processes, whose generators nevertheless stay in step."""
    seed = int(torch.randint(2**31, ()).item())
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_initialized() else []):
        torch.manual_seed(seed + dist.get_rank())
        yield


def mean_gradients(parameters: Sequence[Tensor]) -> None:
    """Sets every gradient to its mean over the processes: that of the whole batch.

    What came through `outputs_of` is, in each process, that many times its part of the sum; what did not, like a
    projection in a method, is the same everywhere.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not several() or not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    with _lost():
        dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
