"""How much a unit matters. A measure is a file here, named by `importance` in a recipe; it holds

- `measure(student, part, texts, keep, context)`: for each of `units.sizes` the importance (units,) of each unit, from
  the first `texts` training texts, when the fraction `keep` of all is to stay;
- `COMPARABLE`: whether units of two layers compare as they are, or only after each layer is scaled to length 1.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol

from torch import Tensor

from attar.compress.prune.units import Part
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError


class Importance(Protocol):
    """The shape of a measure's file."""

    COMPARABLE: bool

    def measure(self, student: Student, part: Part, texts: int, keep: float, context: Context) -> list[Tensor]: ...


def known() -> list[str]:
    """The names of all measures."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def find_importance(use: str) -> Importance:
    """The file of a measure; `SettingsError` where there is none."""
    if use not in known():
        raise SettingsError(f"importance {use!r} is unknown; known: {', '.join(known())}")
    found: Any = importlib.import_module(f"{__name__}.{use}")
    measure: Importance = found
    return measure


def comparable(found: list[Tensor], use: str) -> list[Tensor]:
    """Importances (units,) a layer, such that units of different layers can be ranked together."""
    return found if find_importance(use).COMPARABLE else [i / i.norm().clamp_min(1e-12) for i in found]
