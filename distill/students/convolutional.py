"""A convolutional student: word embeddings and one layer of filters over neighbouring tokens (Kim 2014, section 2).

Here every token keeps its features, for tagging and reading; heads on whole texts take the maximum over the tokens, as
Kim's do. Of pairs it reads both texts as one row, and compares nothing across them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attar.distill.heads import HeadShape, OutputHead, Outputs
from attar.distill.network import Network
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.table import pooled_heads, word_table
from attar.distill.trainer import seed_everything
from attar.runtime.errors import SettingsError


@dataclass(frozen=True)
class Settings:
    """`width` of the word embeddings, at most the given student's; `filters` of each of `widths`, counted in tokens;
    `dense`: neurons of a hidden layer of every head's own (0: none)."""

    width: int = 128
    filters: int = 100
    widths: tuple[int, ...] = (1, 3, 5)
    dense: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.width, self.filters) < 1 or self.dense < 0:
            raise SettingsError(
                f"width and filters must be at least 1 and dense at least 0, not {self.width}, {self.filters} and "
                f"{self.dense}"
            )
        if not self.widths or min(self.widths) < 1 or len(set(self.widths)) < len(self.widths):
            raise SettingsError(f"widths must be different numbers of tokens, each at least 1, not {self.widths}")


@dataclass(frozen=True)
class ConvolutionalShape:
    """Sizes of the network: `filters` of each of `widths`."""

    kind: ClassVar[str] = "convolutional"
    vocab: int
    width: int
    filters: int
    widths: tuple[int, ...]
    positions: int
    heads: tuple[HeadShape, ...]

    @property
    def hidden(self) -> int:
        """What the heads read: the features of all filters."""
        return self.filters * len(self.widths)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


def around(width: int) -> tuple[int, int]:
    """How many tokens before and behind its own a filter of `width` tokens sees; an even one sees more behind."""
    return (width - 1) // 2, width // 2


class Convolutional(Network):
    """Word embeddings, filters and one or more output heads."""

    def __init__(self, shape: ConvolutionalShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.width)
        self.filters = nn.ModuleList(nn.Conv1d(shape.width, shape.filters, width) for width in shape.widths)
        self.heads = nn.ModuleDict({h.name: OutputHead(shape.hidden, h) for h in shape.heads})

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        """Token ids and mask (B, T), padding on the right; token types are not read."""
        words = self.words(ids)
        # Filters see zeros behind a text's last token, whether the row ends there or goes on with padding.
        x = (words * mask[:, :, None].to(words.dtype)).transpose(1, 2)
        pairs = zip(self.filters, self.shape.widths, strict=True)
        found = torch.cat([filters(nn.functional.pad(x, around(width))) for filters, width in pairs], 1)
        states = nn.functional.relu(found).transpose(1, 2)
        return Outputs({name: head(states, mask) for name, head in self.heads.items()}, ())


def from_json(record: Mapping[str, Any]) -> Convolutional:
    """An untrained network of these sizes."""
    return Convolutional(ConvolutionalShape(**{**record, "widths": tuple(record["widths"])}))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The new student, with the tokenizer of the given one; a distillation with `train_words` has to follow."""
    seed_everything(settings.seed)
    table = word_table(student, settings.width)
    shape = ConvolutionalShape(
        vocab=len(table),
        width=settings.width,
        filters=settings.filters,
        widths=settings.widths,
        positions=student.encoder.shape.positions,
        heads=pooled_heads(student.task, settings.filters * len(settings.widths), settings.dense),
    )
    network = Convolutional(shape)
    with torch.no_grad():
        network.words.weight.copy_(table)
    return replace(student, encoder=network.eval(), plan=None).with_step(
        "distill.students.convolutional", asdict(settings)
    )
