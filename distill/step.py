"""What every step shares: settings that refuse unknown keys, and the context a step works in.

A step is a module with a frozen dataclass `Settings` and `apply(student, settings, context) -> Student`; the input
student is left untouched. `use = "compress.prune.heads"` in a recipe names the module attar.compress.prune.heads.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from attar.distill.device import CPU
from attar.distill.resume import Checkpoints
from attar.distill.student import Student
from attar.distill.supervision import Supervision
from attar.distill.trainer import Progress
from attar.runtime.data import Examples
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Outputs
from attar.runtime.tokenizer import Encoded, Text

if TYPE_CHECKING:
    from attar.runtime.bench.paired import Ratio


@dataclass(frozen=True)
class Context:
    """What a step may use. The test split is not in it.

    Attributes:
        train: labelled texts.
        unlabelled: more texts of the domain, possibly none.
        dev: labelled texts that no step trains on, for choosing.
        supervision: what a student is taught on train + unlabelled texts (in this order), with the named states of
            the teacher (`hidden4`: after its fourth layer).
        speedup: paired timing on the target engine: how many times faster the second student is than the first.
        score: a student's points on dev, computed by the runtime on exported bytes.
        outputs: its raw outputs on dev, likewise, and the rows they belong to.
        milliseconds: of each student on the target engine for a batch of so many rows of so many tokens, in turns.
        checkpoints: where a long training keeps what it needs to go on after a kill; None for nowhere.
        device: where networks are trained and the teacher is asked; students come and go on the CPU.
    """

    train: Examples
    unlabelled: Examples
    dev: Examples
    supervision: Callable[[Student, Sequence[str]], Supervision]
    speedup: Callable[[Student, Student], Ratio]
    score: Callable[[Student], float]
    outputs: Callable[[Student], tuple[Encoded, Outputs]]
    teacher: Path
    progress: Progress
    milliseconds: Callable[[Sequence[Student], int, int], list[float]]
    checkpoints: Checkpoints | None = None
    device: torch.device = CPU

    def some(self, count: int) -> tuple[Text, ...]:
        """So many training texts, from all over them."""
        return tuple(self.train.texts[i] for i in spread(len(self.train), count))

    def some_rows(self, taught: Supervision, count: int) -> list[int]:
        """So many rows of training texts in what is taught, from all over them."""
        rows = [row for row, text in enumerate(taught.encoded.owners) if text < len(self.train)]
        return [rows[i] for i in spread(len(rows), count)]


def spread(total: int, count: int) -> list[int]:
    """`count` of `total` places, evenly spread, or all of them: files are often sorted by class, so that the first
    texts are no sample."""
    count = min(count, total)
    return [i * total // count for i in range(count)]


class Step(Protocol):
    """The shape of a step's module.

    Where it says `TOGETHER = True`, several processes call `apply` with the same arguments, for it trains by
    `trainer.train`, and come to the same student; of any other step only the first process does.

    Where it has a sentence `NEVER_PAYS`, no engine is faster for what it does, and that says why.
    """

    Settings: type[Any]

    def apply(self, student: Student, settings: Any, context: Context) -> Student: ...


def find(use: str) -> Step:
    """The module behind `use`, which must lie in distill or compress."""
    if not use.startswith(("distill.", "compress.")):
        raise SettingsError(
            f"step {use!r} is unknown: a step is a file in distill/ or compress/, like compress.prune.heads"
        )
    try:
        module: Any = importlib.import_module(f"attar.{use}")
    except ModuleNotFoundError as error:
        if error.name and f"attar.{use}".startswith(error.name):
            raise SettingsError(f"step {use!r} is unknown: there is no file {use.replace('.', '/')}.py") from error
        raise
    if not (hasattr(module, "Settings") and hasattr(module, "apply")):
        raise SettingsError(f"{use!r} is not a step: it has no Settings and apply")
    step: Step = module
    return step


def together(use: str) -> bool:
    """Whether several processes take part in the step."""
    return bool(getattr(find(use), "TOGETHER", False))


def never_pays(use: str) -> str:
    """Why the step makes nothing faster on any engine; empty where it may."""
    return str(getattr(find(use), "NEVER_PAYS", ""))


def settings_of(kind: type[Any], given: Mapping[str, Any], where: str) -> Any:
    """An instance of a settings dataclass; an unknown key is refused with the list of known ones."""
    known = [f.name for f in dataclasses.fields(kind)]
    for key in given:
        if key not in known:
            raise SettingsError(f"{where} has no setting {key!r}; known: {', '.join(known)}")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise SettingsError(f"{where}: {error}") from error
