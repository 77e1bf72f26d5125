"""What every student network is: token ids in, the outputs of its heads out, sizes that are saved as JSON."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from attar.distill.heads import HeadShape, Outputs
from attar.runtime.errors import ModelError

KINDS: Mapping[str, str] = {
    "encoder": "attar.distill.encoder",
    "static": "attar.distill.students.static",
    "tfidf": "attar.distill.students.tfidf",
    "recurrent": "attar.distill.students.recurrent",
    "convolutional": "attar.distill.students.convolutional",
    "modern": "attar.distill.modern",
}
"""The module that holds each kind of network."""


class Shape(Protocol):
    """Sizes of a network; `positions` is the longest row that it reads, `hidden` the width that its heads read."""

    kind: ClassVar[str]

    @property
    def vocab(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def positions(self) -> int: ...
    @property
    def heads(self) -> tuple[HeadShape, ...]: ...
    def to_json(self) -> dict[str, Any]: ...


class Network(nn.Module):
    """The base of every network. `words` are its token embeddings (V, E), however wide the states that it makes of
    them; `tables` name what in its state has a row for every token."""

    tables: ClassVar[tuple[str, ...]] = ("words.weight",)
    shape: Any
    words: nn.Embedding

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        """Token ids, mask and token types (B, T; none: all 0), padding on the right."""
        raise NotImplementedError  # every network has its own

    @property
    def depth(self) -> int:
        """How many layers there are whose states can be taught."""
        return 0

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


def network_of(record: Mapping[str, Any]) -> Network:
    """An untrained network of the sizes that `Shape.to_json` gave."""
    sizes = dict(record)
    kind = sizes.pop("kind", "encoder")
    if kind not in KINDS:
        raise ModelError(f"the student is a {kind!r} network, which this attar does not know: {', '.join(KINDS)}")
    sizes["heads"] = tuple(HeadShape(**head) for head in sizes["heads"])
    network: Network = importlib.import_module(KINDS[kind]).from_json(sizes)
    return network
