"""What every distillation method shares. A method is a file in distill/methods/, named by `use` in a recipe.

It holds a frozen `Settings` (a `Weighted`), pure loss functions, and two functions:
`needs(settings, student, depth)` names the states it learns from of a teacher of `depth` layers (`hidden4`: after the
fourth layer, `hidden0`: the embeddings, `query4`, `key4`, `value4`: inside it);
`build(settings, student, taught, context)` gives the `Method` that turns a `Lesson` into a loss.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from attar.distill.batches import Batch
from attar.distill.heads import Outputs
from attar.distill.student import Student
from attar.runtime.errors import SettingsError

if TYPE_CHECKING:  # supervision needs the losses, which lie beside the methods
    from attar.distill.step import Context
    from attar.distill.supervision import Supervision


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """`weight` of the loss in the sum: a number, or two, from the first at the start to the second at the end."""

    weight: float | tuple[float, float] = 1.0

    def at(self, progress: float) -> float:
        """The weight when this fraction (0 to 1) of training is done."""
        if isinstance(self.weight, tuple):
            start, end = self.weight
            return start + (end - start) * progress
        return self.weight


@dataclass(frozen=True)
class Lesson:
    """One batch: what the student made of it, and by name the outputs of the modules that methods watch."""

    batch: Batch
    found: Outputs
    inner: Mapping[str, Tensor]


class Method(nn.Module):
    """A loss; its parameters (projections) learn with the student and are thrown away afterwards.

    What it carries from batch to batch must be a buffer, for a training that resumes from a checkpoint to go on with.
    Parameters and buffers are moved to where the student trains; what `forward` makes must lie where the batch does.
    `watches`: names of modules in the student's network whose outputs `Lesson.inner` is to hold.
    `rows`: how many of the first rows it can teach anything about; None: all.
    """

    watches: Sequence[str] = ()
    rows: int | None = None

    def forward(self, lesson: Lesson) -> Tensor:
        """A scalar."""
        raise NotImplementedError  # every method has its own


def projection(width: int, wanted: int) -> nn.Module:
    """From the student's states to the width of the teacher's: nothing where they are equal, else a learned matrix."""
    return nn.Identity() if width == wanted else nn.Linear(width, wanted, bias=False)


class MethodModule(Protocol):
    """The shape of a method's file."""

    Settings: type[Any]

    def needs(self, settings: Any, student: Student, depth: int) -> tuple[str, ...]: ...
    def build(self, settings: Any, student: Student, taught: Supervision, context: Context) -> Method: ...


def known() -> list[str]:
    """The names of all methods."""
    folder: Any = importlib.import_module("attar.distill.methods")
    return sorted(info.name for info in pkgutil.iter_modules(folder.__path__))


def find_method(use: str) -> MethodModule:
    """The file of a method; `SettingsError` where there is none."""
    name = f"attar.distill.methods.{use}"
    try:
        module: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            raise SettingsError(f"method {use!r} is unknown; known: {', '.join(known())}") from error
        raise
    if not (hasattr(module, "Settings") and hasattr(module, "build")):
        raise SettingsError(f"{use!r} is not a method: it has no Settings and build")
    found: MethodModule = module
    return found
