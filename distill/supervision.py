"""What a student is taught: the teacher's outputs and states, laid out along the student's own rows and tokens.

Where both read the same tokens, rows are the same. Where the student has a vocabulary of its own, tokens are aligned by
the characters that they cover: a student's token learns from the teacher's token that holds its first character. A
tagger's B- turns into I- where the student's token begins inside the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.distill.batches import Batch, collate
from attar.distill.heads import Outputs
from attar.distill.objectives import soft
from attar.distill.student import Student
from attar.distill.teacher import Targets
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Head
from attar.runtime.tokenizer import Encoded, Text, Window

NONE = -1


@dataclass(frozen=True)
class Supervision:
    """Targets along `encoded`, the student's rows.

    Attributes:
        source: for each row, the teacher's row that it learns from.
        places: for each row, where the packed targets of its tokens are (T,), `NONE` for tokens without; None where
            rows are the same.
        inside: for each row, whether a token begins inside the teacher's token (T,).
    """

    student: Student
    encoded: Encoded
    targets: Targets
    source: list[int]
    places: list[NDArray[np.int64]] | None = None
    inside: list[NDArray[np.bool_]] | None = None

    def batch(self, rows: list[int]) -> Batch:
        return collate(self.encoded, rows, self.student.pad_id)

    def soft_loss(self, found: Outputs, batch: Batch, temperature: float = 1.0) -> Tensor:
        """The sum over all heads of the distance to the teacher's outputs."""
        losses = []
        for head in self.student.task.heads:
            wanted, known = self._said(head, batch)
            losses.append(soft(head, found.heads[head.name], self._continued(head, wanted, batch), known, temperature))
        return torch.stack(losses).sum()

    def outputs(self, head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's raw outputs of a head as they are, (B, C) or (B, T, C), and the tokens that have any (B, T).

        A tagger's say nothing of tokens that begin inside the teacher's, which have another tag.
        """
        wanted, known = self._said(head, batch)
        if self.inside is not None and self.student.task.continuations(head.name) is not None:
            known = known * ~self._inside(batch)
        return wanted, known

    @property
    def depth(self) -> int:
        """How many layers the teacher has."""
        return self.targets.depth

    def width(self, name: str) -> int:
        """Of the teacher's states of that name."""
        return int(self.targets.states[name].shape[1])

    def states(self, name: str, batch: Batch, length: int) -> tuple[Tensor, Tensor]:
        """The teacher's states of that name, (B, length, H), and where there are any, (B, length)."""
        return self._packed(self.targets.states[name], batch, length)

    def _packed(
        self, values: NDArray[np.float32] | NDArray[np.float16], batch: Batch, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        width = width or batch.ids.shape[1]
        result = np.zeros((len(batch.rows), width, values.shape[1]), dtype=values.dtype)
        known = np.zeros((len(batch.rows), width), dtype=np.int64)
        starts = self.targets.starts
        for row, i in enumerate(batch.rows):
            if self.places is None:
                span = values[starts[i] : starts[i + 1]][:width]
                result[row, : len(span)], known[row, : len(span)] = span, 1
            else:
                place = self.places[i][:width]
                real = place != NONE
                result[row, : len(place)][real] = values[place[real]]
                known[row, : len(place)] = real
        device = batch.ids.device
        return torch.from_numpy(result).to(device), torch.from_numpy(known).to(device)

    def _said(self, head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's raw outputs of a head, and which tokens count."""
        if head.reads == "tokens":
            return self._packed(self.targets.heads[head.name], batch)
        said = self.targets.heads[head.name][[self.source[i] for i in batch.rows]]
        return torch.from_numpy(said).to(batch.ids.device), batch.mask

    def _continued(self, head: Head, wanted: Tensor, batch: Batch) -> Tensor:
        """Teacher logits in which tokens that begin inside the teacher's have the tags of a continuation."""
        into = self.student.task.continuations(head.name)
        if self.inside is None or into is None:
            return wanted
        places = torch.from_numpy(into).to(wanted.device)
        shifted = torch.zeros_like(wanted).index_add_(-1, places, torch.softmax(wanted, -1))
        return torch.where(self._inside(batch)[..., None], shifted.clamp_min(1e-9).log(), wanted)

    def _inside(self, batch: Batch) -> Tensor:
        """Whether each token begins inside the teacher's: (B, T) of bool."""
        result = torch.zeros(batch.ids.shape, dtype=torch.bool)
        for row, i in enumerate(batch.rows):
            begun = self.inside[i] if self.inside is not None else np.zeros(0, dtype=np.bool_)
            result[row, : len(begun)] = torch.from_numpy(begun)
        return result.to(batch.ids.device)


def supervise(student: Student, teacher_tokenizer: bytes, targets: Targets, texts: Sequence[Text]) -> Supervision:
    """The targets of `texts` for this student; `SettingsError` where another vocabulary cannot be aligned."""
    if student.tokenizer == teacher_tokenizer:
        return Supervision(student, targets.encoded, targets, list(range(len(targets.encoded.ids))))
    spans = [h.name for h in student.task.heads if h.objective == "span"]
    if spans or student.task.pairs:
        raise SettingsError(
            f"a {student.task.kind} student needs its teacher's vocabulary: only targets of single texts are aligned; "
            "leave out the step that changes the vocabulary"
        )
    encoded = student.encode(texts)
    rows = _rows(encoded, len(texts))
    read = [f"{getattr(student.task, 'prompt', '')}{text}" for text in texts]
    theirs = _windows(student, targets.encoded, teacher_tokenizer, read)
    by_text: dict[int, list[int]] = {}
    for row, window in enumerate(theirs):
        by_text.setdefault(window.text, []).append(row)
    mine = _windows(student, encoded, student.tokenizer, read)
    source, places, inside = [], [], []
    for row, (text, ordinal) in enumerate(rows):
        candidates = by_text[text]
        source.append(candidates[min(ordinal, len(candidates) - 1)])
        tokens = [(theirs[r], int(targets.starts[r])) for r in candidates]
        found = align(mine[row].offsets, mine[row].sequence, tokens)
        found[0][0] = targets.starts[source[-1]]  # [CLS] learns from [CLS]
        places.append(found[0])
        inside.append(found[1])
    return Supervision(student, encoded, targets, source, places, inside)


def align(
    offsets: NDArray[np.int32], sequence: NDArray[np.int8], teacher: Sequence[tuple[Window, int]]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each token of a row (T, 2 characters) the packed place of the teacher's token that holds its first character.

    `teacher`: the windows of the same text with the packed place of each one's first token. Returns places (T,), `NONE`
    for special tokens and characters that the teacher does not see, and whether the token begins inside the other.
    """
    starts, ends, where = [], [], []
    for window, first in teacher:
        real = np.flatnonzero(window.sequence >= 0)
        starts.append(window.offsets[real, 0])
        ends.append(window.offsets[real, 1])
        where.append(first + real)
    start, end, place = (np.concatenate(a) for a in (starts, ends, where))
    # Windows overlap: of the same token the earlier window's is kept, which a stable sort puts first.
    start, kept = np.unique(start, return_index=True)
    end, place = end[kept], place[kept]
    result = np.full(len(offsets), NONE, dtype=np.int64)
    inside = np.zeros(len(offsets), dtype=np.bool_)
    if len(start):
        at = np.searchsorted(start, offsets[:, 0], side="right") - 1
        held = (sequence >= 0) & (at >= 0) & (offsets[:, 0] < end[np.maximum(at, 0)])
        result[held] = place[at[held]]
        inside[held] = offsets[held, 0] > start[at[held]]
    return result, inside


def _rows(encoded: Encoded, texts: int) -> list[tuple[int, int]]:
    """(text, number of the row within its text) of each row."""
    if encoded.windows is None:
        return [(i, 0) for i in range(texts)]
    result: list[tuple[int, int]] = []
    for window in encoded.windows:
        same = bool(result) and result[-1][0] == window.text
        result.append((window.text, result[-1][1] + 1 if same else 0))
    return result


def _windows(student: Student, encoded: Encoded, tokenizer: bytes, texts: Sequence[str]) -> list[Window]:
    """Where the tokens of each row come from; `texts` as the network reads them, with any prompt."""
    windows = encoded.windows
    if windows is None:
        windows = _first(student.task.reader(tokenizer, student.pad_id).windows(texts), len(texts))
    return [_trimmed(window, texts[window.text]) for window in windows]


def _trimmed(window: Window, text: str) -> Window:
    """The window without the spaces that some tokenizers count to the word behind them."""
    offsets = window.offsets.copy()
    for token, (start, end) in enumerate(window.offsets.tolist()):
        inner = text[start:end].lstrip()
        offsets[token, 0] = end - len(inner) if inner else start
    return replace(window, offsets=offsets)


def _first(encoded: Encoded, texts: int) -> list[Window]:
    """The first window of each text: what a task sees that cuts long texts."""
    found: dict[int, Window] = {}
    for window in encoded.windows or []:
        found.setdefault(window.text, window)
    return [found[i] for i in range(texts)]
