"""What a model folder knows of words: those of a WordPiece vocabulary with the encoder's own embeddings, which of them
are near each other, and the token that stands for a masked one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from attar.distill.checkpoint import read_tokenizer
from attar.distill.data.neighbours import Floats, nearest
from attar.runtime.errors import ModelError, SettingsError

NEIGHBOURS = 15
"""How many candidates a word has: K of TinyBERT (Jiao et al. 2020, algorithm 1)."""

MASKS = ("[MASK]", "<mask>")
"""Of all families that are imported."""


@dataclass(frozen=True)
class Words:
    """Words of one piece, and their vectors (V, D)."""

    names: tuple[str, ...]
    vectors: Floats

    def near(self, asked: list[str]) -> dict[str, list[str]]:
        """The nearest words of each word asked that is known, as it is written or else in lower case, best first.

        A word written in another case is no neighbour. Neighbours of a word that is known in lower case alone take
        its first capital.
        """
        place = {name: i for i, name in enumerate(self.names)}
        known = [(word, place.get(word, place.get(word.lower()))) for word in asked]
        found = {word: i for word, i in known if i is not None}
        rows = np.array(sorted(set(found.values())), dtype=np.int64)
        folded: dict[str, int] = {}
        kin = np.array([folded.setdefault(name.casefold(), len(folded)) for name in self.names], dtype=np.int64)
        indices, cosines = nearest(self.vectors[rows], self.vectors, NEIGHBOURS, (kin[rows], kin))
        names = [
            [self.names[j] for j, cosine in zip(line, values, strict=True) if cosine > -np.inf]
            for line, values in zip(indices.tolist(), cosines.tolist(), strict=True)
        ]
        by_row = dict(zip(rows.tolist(), names, strict=True))
        return {word: [_written(other, word, self.names[i]) for other in by_row[i]] for word, i in found.items()}


def _written(other: str, word: str, known: str) -> str:
    return other[:1].upper() + other[1:] if word != known and word[:1].isupper() else other


def read_words(folder: Path) -> Words:
    """The words of letters alone in a model folder's vocabulary; `SettingsError` where it is not of WordPiece."""
    tokenizer = json.loads(read_tokenizer(folder))
    model = tokenizer["model"]
    if model.get("type") != "WordPiece":
        raise SettingsError(
            f"[data] replacements needs a WordPiece vocabulary, which has pieces that are whole words, and that of "
            f"{folder} is of {model.get('type')}; leave replacements out (crops and ngrams go with any vocabulary)"
        )
    table = _embeddings(folder)
    added = {token["content"] for token in tokenizer.get("added_tokens") or ()}
    # Pieces inside words start with ##, so no letters alone; of an id there may be no row in a table cut short.
    whole = sorted((i, w) for w, i in model["vocab"].items() if w.isalpha() and w not in added and i < len(table))
    return Words(tuple(w for _, w in whole), table[[i for i, _ in whole]])


def read_mask(folder: Path) -> str:
    """The mask token as it is written in a text; `SettingsError` where the tokenizer reads none there."""
    # Added tokens are found in a text before it is split; one of the vocabulary alone is cut at its brackets.
    added = {token["content"] for token in json.loads(read_tokenizer(folder)).get("added_tokens") or ()}
    for name in MASKS:
        if name in added:
            return name
    raise SettingsError(
        f"[data] masks needs a tokenizer with a mask token, and that of {folder} reads neither {' nor '.join(MASKS)}; "
        "leave masks out"
    )


def _embeddings(folder: Path) -> Floats:
    """The table of word embeddings (vocabulary, D), without reading the rest of the weights."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{folder} has no model.safetensors; save the model again with safe serialization")
    try:
        with safe_open(path, framework="pt") as file:
            # The open file is no mapping: it has keys(), and cannot be iterated itself.
            names = [n for n in file.keys() if n == "words.weight" or n.endswith("word_embeddings.weight")]  # noqa: SIM118
            if len(names) != 1:
                raise ModelError(f"{path} has {len(names)} tables of word embeddings, not one; give another model")
            return np.asarray(file.get_tensor(names[0]).float().numpy(), dtype=np.float32)
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read, it may be truncated: {error}") from error
