"""A smaller vocabulary: the teacher's without what its domain never uses, or a new WordPiece one trained on the domain.

Word embeddings are half of a small encoder. A kept piece keeps its embedding; a new one starts as the mean of the old
pieces that spell it (as in FOCUS and WECHSEL, without their auxiliary vectors). Single characters stay, or in BPE the
symbols that all else is merged from, so no text becomes unreadable (`compress/pieces.py` says why); rare words fall
into more pieces. In a static student a kept piece keeps its weight too, and pairs of kept pieces their rows: a text of
kept pieces is answered as before, to the bit. A distillation should follow: it aligns the teacher's targets by
characters, and with `train_words` lets the new embeddings learn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from tokenizers import Tokenizer

from attar.compress.pieces import (
    fallback,
    is_mark,
    kind_of,
    model_pieces,
    numbered,
    prefix_of,
    renumbered,
    specials,
    with_parts,
)
from attar.distill.network import Network, network_of
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students.static import Static
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text, clean


@dataclass(frozen=True)
class Settings:
    """`trim` keeps the pieces that training and unlabelled texts use at least `min_count` times; `train` takes
    their frequent words as pieces of their own (WordPiece only). `size` is the most that either takes, the most
    frequent first. `common` keeps that many of the old vocabulary's first pieces too: most are in order of frequency,
    and names that these texts do not hold are among them."""

    how: Literal["trim", "train"] = "trim"
    size: int = 8000
    min_count: int = 1
    common: int = 0

    def __post_init__(self) -> None:
        if self.how not in ("trim", "train"):
            raise SettingsError(f"how must be trim or train, not {self.how!r}")
        if self.size < 1 or self.min_count < 1:
            raise SettingsError(f"size and min_count must be at least 1, not {self.size} and {self.min_count}")
        if self.common < 0:
            raise SettingsError(f"common must be at least 0, not {self.common}")


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The student with another tokenizer and the embeddings that belong to it."""
    record = json.loads(student.tokenizer)
    if kind_of(record) != "WordPiece" and settings.how == "train":
        raise SettingsError(f'a {kind_of(record)} vocabulary can be trimmed, not trained: only how = "trim" knows it')
    texts = list(_single(context.train.texts + context.unlabelled.texts))
    old = numbered(record)
    apart = specials(record, student.pad_id)
    always = apart | fallback(record, apart)
    if settings.how == "trim":
        chosen = _used(student.tokenizer, texts, settings, old)
    else:
        chosen = _trained(student.tokenizer, texts, settings, old, prefix_of(record))
    # BERT's placeholders [unused0] ... are in no text: the tokenizer splits them at the brackets.
    ranked = [piece for piece in model_pieces(record) if not is_mark(piece)]
    pieces = with_parts(record, always | chosen | set(ranked[: settings.common]))
    tokenizer, vocab = renumbered(record, pieces)
    result = replace(
        student,
        encoder=_with_vocabulary(student.encoder, vocab, old, prefix_of(record)),
        tokenizer=tokenizer,
        pad_id=_renumber(student.pad_id, old, vocab),
    )
    return result.with_step("compress.vocabulary", asdict(settings), pieces=len(vocab), before=len(old))


def _single(texts: Sequence[Text]) -> Iterable[str]:
    for text in texts:
        yield from (clean(part) for part in ((text,) if isinstance(text, str) else text))


def _plain(source: bytes) -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _used(source: bytes, texts: list[str], settings: Settings, old: dict[str, int]) -> set[str]:
    tokenizer, names = _plain(source), {i: piece for piece, i in old.items()}
    counts: Counter[str] = Counter()
    for start in range(0, len(texts), 1000):
        for encoding in tokenizer.encode_batch(texts[start : start + 1000], add_special_tokens=False):
            counts.update(names[i] for i in encoding.ids)
    often = sorted((p for p, n in counts.items() if n >= settings.min_count), key=lambda p: (-counts[p], p))
    return set(often[: settings.size])


def _trained(source: bytes, texts: list[str], settings: Settings, old: dict[str, int], prefix: str) -> set[str]:
    """The most frequent words, whole, and the old pieces that the other words need.

    Not the library's trainer: its ties depend on the order of a hash table, so two runs would give two students.
    """
    tokenizer = _plain(source)
    words: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        words.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    counts: Counter[str] = Counter()
    names = {i: piece for piece, i in old.items()}
    for word, count in words.items():
        if word in old or count >= max(2, settings.min_count):
            counts[word] += count
        else:
            counts.update({names[i]: count for i in spelled(word, old, prefix)})
    return {piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: settings.size]}


def spelled(piece: str, vocab: dict[str, int], prefix: str) -> list[int]:
    """Ids of the old pieces that spell a new one, by greedy longest match; empty where a character is unknown."""
    inside, rest = piece.startswith(prefix), piece.removeprefix(prefix)
    found: list[int] = []
    while rest:
        for end in range(len(rest), 0, -1):
            part = (prefix if inside else "") + rest[:end]
            if part in vocab:
                found.append(vocab[part])
                rest, inside = rest[end:], True
                break
        else:
            return []
    return found


def _embeddings(old: torch.Tensor, vocab: dict[str, int], before: dict[str, int], prefix: str) -> torch.Tensor:
    """(V, H): a row of the old embeddings, or the mean of the rows that spell the piece, or of all.

    A character that was only part of pieces inside words starts as it is at the start of one, if that is known.
    """
    typical = old.mean(0)

    def row(piece: str) -> torch.Tensor:
        if piece in before:
            return old[before[piece]]
        ids = spelled(piece, before, prefix) or spelled(piece.removeprefix(prefix), before, prefix)
        return old[ids].mean(0) if ids else typical

    return torch.stack([row(piece) for piece in vocab])


def _with_vocabulary(network: Network, vocab: dict[str, int], before: dict[str, int], prefix: str) -> Network:
    """The network with its tables for other pieces."""
    shape, state = network.shape.to_json() | {"vocab": len(vocab)}, dict(network.state_dict())
    state |= {name: _embeddings(state[name], vocab, before, prefix) for name in network.tables}
    if isinstance(network, Static) and network.pairs is not None:
        shape |= {"renumbered": True}
        state["first_ids"] = _first_ids(network.first_ids, vocab, before)
    result, kind = network_of(shape), network.shape.kind
    if any(state[name].shape != value.shape for name, value in result.state_dict().items()):
        raise SettingsError(
            f"a {kind} student has other tables of its vocabulary; put compress.vocabulary before its students step"
        )
    result.load_state_dict(state)
    return result.eval()


def _first_ids(known: torch.Tensor | None, vocab: dict[str, int], before: dict[str, int]) -> torch.Tensor:
    """(V,): by which id each piece goes on being hashed: its first one; a new piece by one that none of the old has."""
    first = {piece: i if known is None else int(known[i]) for piece, i in before.items()}
    new = (piece for piece in vocab if piece not in first)
    first |= {piece: i for i, piece in enumerate(new, 1 + max(first.values()))}
    return torch.tensor([first[piece] for piece in vocab])


def _renumber(id_: int, old: dict[str, int], vocab: dict[str, int]) -> int:
    names = {i: piece for piece, i in old.items()}
    return vocab[names[id_]]
