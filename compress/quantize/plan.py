"""The quantization plan: which matrices run in int8 and how their activations are scaled, or how weights are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.runtime.errors import SettingsError

Rows = Literal["fp32", "int8", "int4"]
ROWS: tuple[Rows, ...] = ("fp32", "int8", "int4")
Scheme = Literal["per_token", "mixed", "static"]
SCHEMES: tuple[Scheme, ...] = ("per_token", "mixed", "static")
Half = Literal["fp16", "bf16"]
Kind = Literal["int8", "weights", Half]
BITS: Mapping[Kind, tuple[int, ...]] = {"int8": (7, 8), "weights": (4, 8), "fp16": (8,), "bf16": (8,)}
"""The kinds of plans, and how many bits each may have where it has integers."""


@dataclass(frozen=True)
class QuantPlan:
    """int8 weights per output channel; int8 activations whose scale never depends on other texts of the batch.

    Attributes:
        scales: static activation scales by matrix (`layers.0.query`); a matrix that is not named is scaled per token.
        words: how the rows of word embeddings are stored: int8 with a scale each, int4 with one for every 32 values.
        bits: 8, or 7 for processors whose u8 x s8 products saturate (x86 without VNNI); of weights alone 8 or 4.
        full: matrices that stay in fp32.
        kind: `int8`; or what is only stored and becomes fp32 when it is loaded: `weights` in integers, `fp16`, `bf16`.
        smooth: what the output of a LayerNorm is divided by before matrices read it, by norm.
        shifts: what is added to the bias of a static matrix, by matrix.
        block: weights along a column that share a scale, of `weights`.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    words: Rows = "int8"
    bits: int = 8
    full: tuple[str, ...] = ()
    kind: Kind = "int8"
    smooth: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    shifts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    block: int = 32

    @property
    def scheme(self) -> str:
        """How a report names the plan."""
        if self.kind != "int8":
            return f"int{self.bits} weights" if self.kind == "weights" else f"{self.kind} weights"
        parts = [f"{len(self.scales)} matrices static"] if self.scales else ["per token"]
        parts += [f"{len(self.full)} in fp32"] if self.full else []
        parts += ["smoothed"] if self.smooth else []
        parts += ["int4 words"] if self.words == "int4" else []
        return f"int8 {parts[0]}" if parts == ["per token"] else f"int8, {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"scales": dict(self.scales), "words": self.words, "bits": self.bits}
        record |= {"full": list(self.full), "kind": self.kind, "block": self.block}
        for name in ("smooth", "shifts"):
            record[name] = {module: list(values) for module, values in getattr(self, name).items()}
        return record

    @staticmethod
    def from_json(record: Mapping[str, Any] | None) -> QuantPlan | None:
        if record is None:
            return None
        kind = record.get("kind", "int8")
        if kind not in BITS:
            raise SettingsError(f"a plan is one of {', '.join(BITS)}, not {kind!r}")
        check_bits(kind, record["bits"])
        smooth, shifts = ({k: tuple(v) for k, v in record.get(n, {}).items()} for n in ("smooth", "shifts"))
        full, block = tuple(record.get("full", ())), int(record.get("block", 32))
        scales, words, bits = dict(record["scales"]), _rows(record["words"]), int(record["bits"])
        return QuantPlan(scales, words, bits, full, kind, smooth, shifts, block)


def check_bits(kind: Kind, bits: int) -> None:
    """Refuses what has no kernel or no storage."""
    if bits not in BITS[kind]:
        known = " or ".join(str(b) for b in BITS[kind])
        raise SettingsError(f"bits must be {known}, not {bits}")


def _rows(given: str | bool) -> Rows:
    """Records of earlier students say whether rows are int8."""
    name = ("int8" if given else "fp32") if isinstance(given, bool) else given
    for known in ROWS:
        if name == known:
            return known
    raise SettingsError(f"words must be one of {', '.join(ROWS)}, not {given!r}")
