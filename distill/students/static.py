"""A static-embedding student: a table of token embeddings, a learned mean and the largest values over the tokens, a
small MLP. Nothing in it grows with the square of anything, and most of its time is tokenization.

The table starts as model2vec's does (Tulkens & van Dongen 2024): every token passes through the given transformer
alone, principal components make the results narrow, and frequent tokens weigh less (SIF, Arora et al. 2017, section
3). `bigrams` adds embeddings of hashed pairs of neighbours (fastText, Joulin et al. 2017, section 2.1), which tell
"not good" from "good".

With `vectors` the table starts from GloVe's or others' vectors of words instead (Pennington et al. 2014). A piece that
is a whole word starts at the word's vector, a piece of words alone at the mean of the vectors of the words that are
spelled with it, and what is in no word, such as [CLS], at the mean of all these.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from attar.distill.data.vectors import Vectors, read_vectors
from attar.distill.heads import HeadShape, OutputHead, Outputs, head_shape
from attar.distill.network import Network
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.encoder import principal
from attar.distill.students.table import at_scale_1
from attar.distill.trainer import autocast, seed_everything
from attar.runtime.errors import DataError, SettingsError

PRIME = 31337
"""Neighbours a, b share the row (a * PRIME + b) mod `bigrams`."""
FREQUENT = 1e-3
"""SIF's a: a token of frequency p starts with the weight a / (a + p)."""


@dataclass(frozen=True)
class Settings:
    """`width` of the token embeddings, at most that of what they start from; `hidden` neurons of the MLP, `bigrams`
    rows for pairs of tokens (0: none). `vectors` to start from: asset:glove-6b-50d, a text file with `word v1 v2 ...` a
    line, or a folder of an .npy and its words; empty: the given transformer's states."""

    width: int = 256
    hidden: int = 256
    bigrams: int = 0
    vectors: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.hidden < 1 or self.bigrams < 0:
            raise SettingsError(
                f"width and hidden must be at least 1 and bigrams at least 0, not {self.width}, {self.hidden}, "
                f"{self.bigrams}"
            )


@dataclass(frozen=True)
class StaticShape:
    """Sizes of the network; `hidden` is what the heads read. `renumbered`: tokens have had other ids, by which pairs of
    them are hashed."""

    kind: ClassVar[str] = "static"
    vocab: int
    width: int
    hidden: int
    positions: int
    heads: tuple[HeadShape, ...]
    bigrams: int = 0
    renumbered: bool = False

    def to_json(self) -> dict[str, Any]:
        record = {"kind": self.kind, **asdict(self)}
        # As before there was such a thing: the digest of a student without it stays what it was.
        return {k: v for k, v in record.items() if v or k != "renumbered"}


class Static(Network):
    """Token embeddings to one state of the whole text, which every head reads as the first token's.

    `first_ids` (V,) are the ids that the tokens had when the pairs learnt, where they are others now.
    """

    tables = ("words.weight", "weights.weight")
    first_ids: Tensor | None

    def __init__(self, shape: StaticShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(shape.vocab, shape.width)
        self.weights = nn.Embedding(shape.vocab, 1)
        self.pairs = nn.Embedding(shape.bigrams, shape.width) if shape.bigrams else None
        self.register_buffer("first_ids", torch.arange(shape.vocab) if shape.renumbered else None)
        self.mlp = nn.Linear(2 * shape.width, shape.hidden)
        self.heads = nn.ModuleDict({h.name: OutputHead(shape.hidden, h) for h in shape.heads})

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        x = self.words(ids)
        if self.pairs is not None:
            # The last real token has no neighbour: what stands behind it does not count.
            known = ids if self.first_ids is None else self.first_ids[ids]
            together = (known[:, :-1] * PRIME + known[:, 1:]) % self.shape.bigrams
            x = x + nn.functional.pad(self.pairs(together) * mask[:, 1:, None], (0, 0, 0, 1))
        hidden = (1 - mask).to(x.dtype)
        share = torch.softmax(self.weights(ids)[..., 0].float() - hidden.float() * 1e4, dim=-1)
        mean = (share[:, None].to(x.dtype) @ x)[:, 0]
        top = (x - hidden[..., None] * 1e9).amax(1)
        state = nn.functional.relu(self.mlp(torch.cat([mean, top], -1)))[:, None]
        return Outputs({name: head(state, mask) for name, head in self.heads.items()}, ())


def from_json(record: Mapping[str, Any]) -> Static:
    """An untrained network of these sizes."""
    return Static(StaticShape(**record))


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The new student, with the tokenizer of the given one; `train_words` of the distillation lets the table learn."""
    seed_everything(settings.seed)
    heads = student.task.heads
    wrong = [h.name for h in heads if h.reads == "tokens" or h.objective == "vector"]
    if wrong:
        raise SettingsError(
            f"a static student says one thing of a whole text, and {wrong[0]!r} needs a state for every token or a "
            "vector like the teacher's; use another student"
        )
    states = from_words(student, read_vectors(settings.vectors)) if settings.vectors else token_states(student)
    width = min(settings.width, states.shape[1])
    shape = StaticShape(
        len(states), width, settings.hidden, student.task.max_length,
        tuple(replace(head_shape(h, settings.hidden), reads="first") for h in heads), settings.bigrams,
    )  # fmt: skip
    network = Static(shape)
    table = (states - states.mean(0)) @ principal(states, width)
    with torch.no_grad():
        network.words.weight.copy_(at_scale_1(table))
        network.weights.weight.copy_(sif(student, context)[:, None])
        if network.pairs is not None:
            network.pairs.weight.zero_()
    return replace(student, encoder=network.eval(), plan=None).with_step("distill.students.static", asdict(settings))


def token_states(student: Student, size: int = 512) -> Tensor:
    """(V, H): what the transformer makes of every token alone, in its last state of the first token."""
    encoder = student.transformer.eval()
    (row,) = student.encode(["a"] if not student.task.pairs else [("a", "a")]).ids
    first, last = row[0], row[-1]
    found = []
    for start in range(0, encoder.shape.vocab, size):
        tokens = torch.arange(start, min(start + size, encoder.shape.vocab))
        ids = torch.stack([torch.full_like(tokens, first), tokens, torch.full_like(tokens, last)], 1)
        with torch.no_grad(), autocast(True):
            found.append(encoder(ids, torch.ones_like(ids)).hidden[-1][:, 0].float())
    return torch.cat(found)


def from_words(student: Student, vectors: Vectors) -> Tensor:
    """(V, D): a vector for every piece of the student's tokenizer, as the module says."""
    backend = Tokenizer.from_buffer(student.tokenizer)
    backend.no_truncation()
    backend.no_padding()
    table, width = torch.from_numpy(vectors.table), vectors.table.shape[1]
    sums, counts = torch.zeros(student.encoder.shape.vocab, width), torch.zeros(student.encoder.shape.vocab, 1)
    whole: dict[int, int] = {}
    special = _specials(student.tokenizer, backend)
    for start in range(0, len(vectors.words), 10_000):
        # Behind a space, as within a text: some tokenizers have other pieces there.
        words = [f" {word}" for word in vectors.words[start : start + 10_000]]
        spelled = [encoding.ids for encoding in backend.encode_batch_fast(words, add_special_tokens=False)]
        for row, ids in enumerate(spelled, start):
            if len(ids) == 1 and ids[0] not in special:
                whole.setdefault(ids[0], row)  # of words that only differ in case or accents the first
        pieces = torch.tensor([i for ids in spelled for i in ids], dtype=torch.long)
        lengths = torch.tensor([len(ids) for ids in spelled])
        sums.index_add_(0, pieces, table[start : start + len(words)].repeat_interleave(lengths, 0))
        counts.index_add_(0, pieces, torch.ones(len(pieces), 1))
    if not whole:
        raise DataError("vectors: none of their words is a piece of the student's tokenizer; give others")
    result = sums / counts.clamp_min(1)
    result[list(whole)] = table[list(whole.values())]
    known = counts[:, 0] > 0
    result[~known] = result[known].mean(0)
    return result


def _specials(source: bytes, backend: Tokenizer) -> set[int | None]:
    """Ids that stand for no word of their own: marks, and what stands for words that cannot be read."""
    record = json.loads(source)
    marks = {token["id"] for token in record.get("added_tokens") or ()}
    return {*marks, backend.token_to_id(record["model"].get("unk_token") or "")}


def sif(student: Student, context: Context) -> Tensor:
    """(V,): the logarithm of each token's weight, by how often training texts hold it."""
    counts = Counter(i for row in student.encode(context.train.texts).ids for i in row)
    seen = torch.zeros(student.encoder.shape.vocab)
    for token, count in counts.items():
        seen[token] = count
    return torch.log(FREQUENT / (FREQUENT + seen / seen.sum().clamp_min(1)))
