"""A smaller WordPiece vocabulary: the teacher's without what its domain never uses, or a new one trained on the domain.

Word embeddings are half of a small encoder. A kept piece keeps its embedding; a new one starts as the mean of the old
pieces that spell it (as in FOCUS and WECHSEL, without their auxiliary vectors). Every single character of the old
vocabulary stays, so no text becomes unreadable; rare words fall into more pieces. A distillation should follow: it
aligns the teacher's targets by characters, and with `train_words` lets the new embeddings learn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from attar.distill.network import Network, network_of
from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.tokenizer import Text, clean


@dataclass(frozen=True)
class Settings:
    """`trim` keeps the pieces that training and unlabelled texts use at least `min_count` times; `train` takes
    their frequent words as pieces of their own. `size` is the most that either takes, the most frequent first.
    `common` keeps that many of the old vocabulary's first pieces too: BERT's is in order of frequency, and names that
    these texts do not hold are among them."""

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
    if record["model"]["type"] != "WordPiece":
        raise SettingsError(f"a vocabulary of type {record['model']['type']} cannot be changed; WordPiece can")
    texts = list(_single(context.train.texts + context.unlabelled.texts))
    old: dict[str, int] = record["model"]["vocab"]
    ranked = sorted(old, key=old.__getitem__)
    # BERT's placeholders [unused0] ... are in no text: the tokenizer splits them at the brackets.
    common = [piece for piece in ranked if not piece.startswith("[unused")][: settings.common]
    always = _specials(record, student.pad_id) | _characters(old, _prefix(record)) | set(common)
    if settings.how == "trim":
        pieces = always | _used(student.tokenizer, texts, settings)
    else:
        pieces = always | _trained(student.tokenizer, texts, settings, old, _prefix(record))
    # In the old order, so that specials keep their places and the same texts give the same file.
    known = [piece for piece in ranked if piece in pieces]
    vocab = {piece: i for i, piece in enumerate([*known, *sorted(pieces - old.keys())])}
    words = _embeddings(student.encoder.words.weight.detach(), vocab, old, _prefix(record))
    result = replace(
        student,
        encoder=_with_words(student.encoder, words),
        tokenizer=_renumbered(record, vocab),
        pad_id=_renumber(student.pad_id, old, vocab),
    )
    return result.with_step("compress.vocabulary", asdict(settings), pieces=len(vocab), before=len(old))


def _single(texts: Sequence[Text]) -> Iterable[str]:
    for text in texts:
        yield from (clean(part) for part in ((text,) if isinstance(text, str) else text))


def _prefix(record: dict[str, Any]) -> str:
    return str(record["model"]["continuing_subword_prefix"])


def _specials(record: dict[str, Any], pad_id: int) -> set[str]:
    """Tokens that the tokenizer itself puts in, wherever it names them."""
    names = {token["content"] for token in record["added_tokens"]} | {record["model"]["unk_token"]}
    names |= {name for name, id_ in record["model"]["vocab"].items() if id_ == pad_id}
    post = record.get("post_processor") or {}
    names |= {post[kind][0] for kind in ("cls", "sep") if isinstance(post.get(kind), list)}
    for token in (post.get("special_tokens") or {}).values():
        names.update(token["tokens"])
    return names


def _characters(vocab: Iterable[str], prefix: str) -> set[str]:
    """Single characters, at the start of a word and inside it."""
    return {piece for piece in vocab if len(piece.removeprefix(prefix)) == 1}


def _plain(source: bytes) -> Tokenizer:
    tokenizer = Tokenizer.from_buffer(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _used(source: bytes, texts: list[str], settings: Settings) -> set[str]:
    tokenizer = _plain(source)
    counts: Counter[str] = Counter()
    for start in range(0, len(texts), 1000):
        for encoding in tokenizer.encode_batch(texts[start : start + 1000], add_special_tokens=False):
            counts.update(encoding.tokens)
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
    """(V, H): a row of the old embeddings, or the mean of the rows that spell the piece, or of all."""
    typical = old.mean(0)
    rows = [old[ids].mean(0) if (ids := spelled(p, before, prefix)) else typical for p in vocab]
    return torch.stack(rows)


def _with_words(network: Network, words: torch.Tensor) -> Network:
    result, kind = network_of(network.shape.to_json() | {"vocab": len(words)}), network.shape.kind
    state = {**network.state_dict(), "words.weight": words}
    if any(state[name].shape != value.shape for name, value in result.state_dict().items()):
        raise SettingsError(
            f"a {kind} student has other tables of its vocabulary; put compress.vocabulary before its students step"
        )
    result.load_state_dict(state)
    return result.eval()


def _renumber(id_: int, old: dict[str, int], vocab: dict[str, int]) -> int:
    names = {i: piece for piece, i in old.items()}
    return vocab[names[id_]]


def _renumbered(record: dict[str, Any], vocab: dict[str, int]) -> bytes:
    """The tokenizer with this vocabulary: ids also stand among the added tokens and in the post-processor."""
    record["model"]["vocab"] = vocab
    for token in record["added_tokens"]:
        token["id"] = vocab[token["content"]]
    record["added_tokens"].sort(key=lambda token: token["id"])
    post = record.get("post_processor") or {}
    for name in ("cls", "sep"):  # BertProcessing: ["[CLS]", 101]
        if isinstance(post.get(name), list):
            post[name][1] = vocab[post[name][0]]
    for token in (post.get("special_tokens") or {}).values():  # TemplateProcessing
        token["ids"] = [vocab[name] for name in token["tokens"]]
    return json.dumps(record, ensure_ascii=False).encode()
