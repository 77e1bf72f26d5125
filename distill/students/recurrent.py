"""A recurrent student: word embeddings and layers of a bidirectional LSTM or GRU, whose states the heads read.

The architecture of Tang et al. 2019 (Distilling Task-Specific Knowledge from BERT into Simple Neural Networks, section
3.1), with any number of layers; cells after Hochreiter & Schmidhuber 1997 and Cho et al. 2014 (with the reset gate
behind the matrix, as PyTorch has it). Of pairs it reads both texts as one row, in which separators stand between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from attar.distill.heads import HeadShape, OutputHead, Outputs
from attar.distill.network import Network
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.table import pooled_heads, word_table
from attar.distill.trainer import seed_everything
from attar.runtime.errors import SettingsError

CELLS: Mapping[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


@dataclass(frozen=True)
class Settings:
    """`cell`: lstm or gru; `width` of the word embeddings, at most the given student's; `hidden` numbers in the state
    of each direction; `layers`; `dense`: neurons of a hidden layer of every head's own (0: none)."""

    cell: str = "lstm"
    width: int = 128
    hidden: int = 150
    layers: int = 1
    dense: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise SettingsError(f"unknown cell {self.cell!r}; known: {', '.join(CELLS)}")
        if min(self.width, self.hidden, self.layers) < 1 or self.dense < 0:
            raise SettingsError(
                f"width, hidden and layers must be at least 1 and dense at least 0, not {self.width}, {self.hidden}, "
                f"{self.layers} and {self.dense}"
            )


@dataclass(frozen=True)
class RecurrentShape:
    """Sizes of the network; `units` is the size of each direction's state."""

    kind: ClassVar[str] = "recurrent"
    vocab: int
    width: int
    units: int
    layers: int
    positions: int
    heads: tuple[HeadShape, ...]
    cell: str = "lstm"

    @property
    def hidden(self) -> int:
        """What the heads read: the states of both directions, forward first."""
        return 2 * self.units

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


class Recurrent(Network):
    """Word embeddings, bidirectional layers and one or more output heads."""

    def __init__(self, shape: RecurrentShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.width)
        self.cells = CELLS[shape.cell](
            shape.width, shape.units, shape.layers, batch_first=True, bidirectional=True
        )  # fmt: skip
        self.heads = nn.ModuleDict({h.name: OutputHead(shape.hidden, h) for h in shape.heads})

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        """Token ids and mask (B, T), padding on the right; token types are not read."""
        # Packed, so that the backward direction begins at a text's own last token. A row without any counts one.
        lengths = mask.sum(1).clamp_min(1).cpu()
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.cells(packed)[0], batch_first=True, total_length=ids.shape[1])
        return Outputs({name: head(x, mask) for name, head in self.heads.items()}, ())


def from_json(record: Mapping[str, Any]) -> Recurrent:
    """An untrained network of these sizes."""
    return Recurrent(RecurrentShape(**record))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The new student, with the tokenizer of the given one; a distillation with `train_words` has to follow."""
    seed_everything(settings.seed)
    table = word_table(student, settings.width)
    shape = RecurrentShape(
        vocab=len(table),
        width=settings.width,
        units=settings.hidden,
        layers=settings.layers,
        positions=student.encoder.shape.positions,
        heads=pooled_heads(student.task, 2 * settings.hidden, settings.dense),
        cell=settings.cell,
    )
    network = Recurrent(shape)
    with torch.no_grad():
        network.words.weight.copy_(table)
    return replace(student, encoder=network.eval(), plan=None).with_step("distill.students.recurrent", asdict(settings))
