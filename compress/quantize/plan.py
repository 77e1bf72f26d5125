"""The quantization plan: which matrices run in int8, and how their activations are scaled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.runtime.errors import SettingsError

Rows = Literal["fp32", "int8", "int4"]
ROWS: tuple[Rows, ...] = ("fp32", "int8", "int4")
Scheme = Literal["per_token", "mixed", "static"]
SCHEMES: tuple[Scheme, ...] = ("per_token", "mixed", "static")


@dataclass(frozen=True)
class QuantPlan:
    """int8 weights per output channel; int8 activations whose scale never depends on other texts of the batch.

    Attributes:
        scales: static activation scales by matrix (`layers.0.query`); a matrix that is not named is scaled per token.
        full: matrices that stay in fp32.
        words: how the rows of word embeddings are stored: int8 with a scale each, int4 with one for every 32 values.
        bits: 8, or 7 for processors whose u8 x s8 products saturate (x86 without VNNI).
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    words: Rows = "int8"
    bits: int = 8
    full: tuple[str, ...] = ()

    @property
    def scheme(self) -> str:
        """How a report names the plan."""
        parts = [f"{len(self.scales)} matrices static"] if self.scales else ["per token"]
        parts += [f"{len(self.full)} in fp32"] if self.full else []
        return f"int8 {parts[0]}" if parts == ["per token"] else f"int8, {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        return {"scales": dict(self.scales), "words": self.words, "bits": self.bits, "full": list(self.full)}

    @staticmethod
    def from_json(record: Mapping[str, Any] | None) -> QuantPlan | None:
        if record is None:
            return None
        if record["bits"] not in (7, 8):
            raise SettingsError(f"bits must be 7 or 8, not {record['bits']}")
        full = tuple(record.get("full", ()))
        return QuantPlan(dict(record["scales"]), _rows(record["words"]), int(record["bits"]), full)


def _rows(given: str | bool) -> Rows:
    """Records of earlier students say whether rows are int8."""
    name = ("int8" if given else "fp32") if isinstance(given, bool) else given
    for known in ROWS:
        if name == known:
            return known
    raise SettingsError(f"words must be one of {', '.join(ROWS)}, not {given!r}")
