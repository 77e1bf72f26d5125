"""TF-IDF and a linear classifier: the honest floor below every other student.

Sublinear term frequencies times smoothed inverse document frequencies of the tokenizer's pieces and of hashed pairs of
neighbours (Manning, Raghavan & Schuetze 2008, sections 6.2 and 6.4.1), weights that sum to 1 in each text (the l1
norm), and one vector of class scores a feature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attar.distill.heads import HeadShape, OutputHead, Outputs
from attar.distill.network import Network
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.static import PRIME
from attar.runtime.errors import SettingsError

NEVER = -1e4
"""The logarithm of no weight at all."""


@dataclass(frozen=True)
class Settings:
    """`bigrams`: rows for hashed pairs of neighbours; 0 for single tokens alone."""

    bigrams: int = 30000

    def __post_init__(self) -> None:
        if self.bigrams < 0:
            raise SettingsError(f"bigrams must be at least 0, not {self.bigrams}")


@dataclass(frozen=True)
class TfidfShape:
    """Sizes of the network: `hidden` scores a feature, `vocab` + `bigrams` features."""

    kind: ClassVar[str] = "tfidf"
    vocab: int
    hidden: int
    positions: int
    heads: tuple[HeadShape, ...]
    bigrams: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


class Tfidf(Network):
    """A weighted mean of the features' class scores. `log_idf` (features,) and `log_tf` (count,) are fixed."""

    log_idf: Tensor
    log_tf: Tensor

    def __init__(self, shape: TfidfShape) -> None:
        super().__init__()
        self.shape = shape
        features = shape.vocab + shape.bigrams
        self.words = nn.Embedding(features, shape.hidden)
        self.bias = nn.Parameter(torch.zeros(shape.hidden))
        counts = torch.arange(2 * shape.positions).clamp_min(1).double()
        self.register_buffer("log_tf", ((1 + counts.log()) / counts).log().float())
        self.register_buffer("log_idf", torch.zeros(features))
        self.heads = nn.ModuleDict({h.name: OutputHead(shape.hidden, h) for h in shape.heads})

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        features, there = self.features(ids, mask)
        count = ((features[:, :, None] == features[:, None]) & (there[:, None] > 0)).sum(-1)
        # Twice: what is not there must weigh less than what is there and says nothing.
        scores = self.log_tf[count] + self.log_idf[features] + (1 - there) * (2 * NEVER)
        share = torch.softmax(scores.float(), -1)
        table = self.words(features)
        state = share[:, None].to(table.dtype) @ table + self.bias
        return Outputs({name: head(state, mask) for name, head in self.heads.items()}, ())

    def features(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 2T): each token, and behind it the pair with its right neighbour; and which of them are real.

        In turn, so that padding moves none of them: the order of a sum decides its last bits.
        """
        if not self.shape.bigrams:
            return ids, mask
        together = self.shape.vocab + (ids[:, :-1] * PRIME + ids[:, 1:]) % self.shape.bigrams
        pairs, real = (nn.functional.pad(x, (0, 1)) for x in (together, mask[:, 1:]))
        return torch.stack([ids, pairs], -1).flatten(1), torch.stack([mask, real], -1).flatten(1)


def from_json(record: Mapping[str, Any]) -> Tfidf:
    """An untrained network of these sizes."""
    return Tfidf(TfidfShape(**record))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The new student, with the tokenizer of the given one; `train_words` of the distillation lets it learn."""
    heads = student.task.heads
    if len(heads) != 1 or heads[0].reads == "tokens" or heads[0].objective == "vector":
        raise SettingsError("a TF-IDF student gives one answer to a whole text, by one head; use another student")
    head = HeadShape(heads[0].name, heads[0].outputs, linear=False)
    encoded = student.encode(context.train.texts)
    shape = TfidfShape(student.encoder.shape.vocab, head.outputs, student.task.max_length, (head,), settings.bigrams)
    network = Tfidf(shape)
    with torch.no_grad():
        network.words.weight.zero_()
        network.log_idf.copy_(log_idf(network, encoded.ids))
    return replace(student, encoder=network.eval(), plan=None).with_step("distill.students.tfidf", asdict(settings))


def log_idf(network: Tfidf, rows: Sequence[Sequence[int]]) -> Tensor:
    """(features,): log(1 + log((1 + texts) / (1 + texts with it))); nothing for what stands in every text, [CLS]."""
    held: Counter[int] = Counter()
    for row in rows:
        ids = torch.tensor([row])
        features, real = network.features(ids, torch.ones_like(ids))
        held.update(set(features[real > 0].tolist()))
    with_it = torch.zeros(len(network.words.weight), dtype=torch.float64)
    for feature, count in held.items():
        with_it[feature] = count
    found = torch.log(1 + torch.log((1 + len(rows)) / (1 + with_it)))
    return torch.where(with_it == len(rows), NEVER, found).float()
