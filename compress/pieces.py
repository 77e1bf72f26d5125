"""Vocabularies as a tokenizer's JSON holds them: which pieces must stay so that no text is lost, and a smaller record.

Every text that the old vocabulary reads without an unknown token the smaller one reads without, too. WordPiece and
Unigram: a character of an old piece stays as a piece of its own (in WordPiece at the start of a word or inside, as
it stands there; words that begin with the prefix itself aside), so that at every place of a word that old pieces
covered something fits. What looks like a mark, [unused0] or <mask>, is taken for no text. BPE: no piece is lost that
is not merged from others, so a word begins with the same symbols, and a merge stays or goes with its result.

What the kept pieces spelled is spelled as before. WordPiece takes the longest piece, which stayed. Unigram's best path
stayed, and new characters rate as unknown ones did. BPE keeps all parts of a kept piece, so of a word of kept pieces
every merge that was done is still there, in its old order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from attar.runtime.errors import SettingsError

KINDS = ("WordPiece", "BPE", "Unigram")
UNKNOWN_PENALTY = 10.0
"""How much less than its lowest piece a Unigram model rates a character that it does not know."""


def kind_of(record: Mapping[str, Any]) -> str:
    found = str(record["model"]["type"])
    if found not in KINDS:
        raise SettingsError(f"a vocabulary of type {found} cannot be changed; {', '.join(KINDS)} can")
    return found


def prefix_of(record: Mapping[str, Any]) -> str:
    """What stands before the pieces inside a word; nothing in some kinds."""
    return str(record["model"].get("continuing_subword_prefix") or "")


def model_pieces(record: Mapping[str, Any]) -> list[str]:
    """The model's own pieces by id."""
    vocab = record["model"]["vocab"]
    return [piece for piece, _ in vocab] if isinstance(vocab, list) else sorted(vocab, key=vocab.__getitem__)


def numbered(record: Mapping[str, Any]) -> dict[str, int]:
    """The ids of all pieces, and of the tokens that were added to them."""
    vocab = record["model"]["vocab"]
    ids = {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {token["content"]: token["id"] for token in record["added_tokens"]}


def specials(record: Mapping[str, Any], pad_id: int) -> set[str]:
    """Tokens that the tokenizer itself puts in, wherever it names them."""
    model, ids = record["model"], numbered(record)
    names = {token["content"] for token in record["added_tokens"]}
    names |= {name for name, id_ in ids.items() if id_ in (pad_id, model.get("unk_id"))}
    names |= {model["unk_token"]} if model.get("unk_token") else set()
    post = record.get("post_processor") or {}
    names |= {post[kind][0] for kind in ("cls", "sep") if isinstance(post.get(kind), list)}
    for token in (post.get("special_tokens") or {}).values():
        names.update(token["tokens"])
    return names


def is_mark(piece: str) -> bool:
    """Whether it is written like [MASK], [unused0] or <mask>; not <0x41>, which stands for a byte."""
    return bool(re.fullmatch(r"\[.+\]|<(?!0x..>).+>", piece))


def fallback(record: Mapping[str, Any], apart: Set[str]) -> set[str]:
    """The pieces that any text can fall into, some of them perhaps new; those named `apart` are not text."""
    pieces = {piece for piece in model_pieces(record) if piece not in apart and not is_mark(piece)}
    if kind_of(record) == "BPE":
        return pieces - {_merged(record, pair) for pair in _merges(record)}
    if kind_of(record) == "Unigram":
        bytes_ = {piece for piece in pieces if re.fullmatch("<0x..>", piece)}
        return bytes_.union(*(pieces - bytes_))
    prefix, found = prefix_of(record), set()
    for piece in pieces:
        inside = piece.removeprefix(prefix)
        if not piece.startswith(prefix):
            found.add(piece[:1])
            inside = piece[1:]
        found.update(prefix + character for character in inside)
    return found


def with_parts(record: Mapping[str, Any], pieces: Iterable[str]) -> set[str]:
    """The pieces, and in BPE whatever they are merged from, over any number of steps."""
    found, rest = set(), list(pieces)
    parts: dict[str, list[str]] = {}
    for pair in _merges(record):
        parts.setdefault(_merged(record, pair), []).extend(pair)
    while rest:
        piece = rest.pop()
        if piece not in found:
            found.add(piece)
            rest.extend(parts.get(piece, ()))
    return found


def _merges(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs in the order in which they are merged; older files hold them as `a b`."""
    found = record["model"].get("merges") or []
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in found)
    return [(left, right) for left, right in pairs]


def _merged(record: Mapping[str, Any], pair: tuple[str, str]) -> str:
    return pair[0] + pair[1].removeprefix(prefix_of(record))


def renumbered(record: Mapping[str, Any], pieces: Set[str]) -> tuple[bytes, dict[str, int]]:
    """The tokenizer with these pieces, and their ids: the old ones in their order, the new, then added tokens.

    Ids also stand among the added tokens and in the post-processor.
    """
    result, old = json.loads(json.dumps(record)), numbered(record)
    own = model_pieces(record)
    outside = sorted(old.keys() - set(own), key=old.__getitem__)
    kept = [piece for piece in own if piece in pieces] + sorted(pieces - old.keys())
    vocab = {piece: i for i, piece in enumerate([*kept, *outside])}
    model = result["model"]
    if kind_of(record) == "Unigram":
        scores = dict(model["vocab"])
        lowest = min(scores.values()) - UNKNOWN_PENALTY
        model["vocab"] = [[piece, scores.get(piece, lowest)] for piece in kept]
        model["unk_id"] = None if model["unk_id"] is None else vocab[own[model["unk_id"]]]
    else:
        model["vocab"] = {piece: vocab[piece] for piece in kept}
    if kind_of(record) == "BPE":
        model["merges"] = [p for p in _merges(record) if {*p, _merged(record, p)} <= vocab.keys()]
    for token in result["added_tokens"]:
        token["id"] = vocab[token["content"]]
    result["added_tokens"].sort(key=lambda token: token["id"])
    post = result.get("post_processor") or {}
    for name in ("cls", "sep"):  # BertProcessing: ["[CLS]", 101]
        if isinstance(post.get(name), list):
            post[name][1] = vocab[post[name][0]]
    for token in (post.get("special_tokens") or {}).values():  # TemplateProcessing
        token["ids"] = [vocab[name] for name in token["tokens"]]
    return json.dumps(result, ensure_ascii=False).encode(), vocab
