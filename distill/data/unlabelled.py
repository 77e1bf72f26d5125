"""Texts without labels: files as the task reads them, or any one column of any file, whole or cut into sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from attar.distill.data.assets import resolve_data
from attar.distill.data.sentences import sentences
from attar.runtime.data import Examples, read_texts
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tokenizer import Text

SHORTEST, LONGEST = 4, 60
"""Words of a sentence that is kept: fewer say too little for a teacher to judge, more are lists and tables."""


@dataclass(frozen=True)
class Source:
    """One entry of `[data] unlabelled`: a file or an asset.

    `column`: texts, or lists of tokens, which are joined by spaces; None reads the file as the task does.
    `sentences`: cut the texts into sentences, of which those of 4 to 60 words are kept.
    """

    source: str
    column: str | None = None
    sentences: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("source", str), ("column", str | None), ("sentences", bool)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                wanted = "true or false" if kind is bool else "a text"
                raise SettingsError(f"[data] unlabelled: {name} must be {wanted}, not {value!r}")


def read_unlabelled(
    source: Source, *, kind: str, heads: Sequence[tuple[str, str, str]] = (), text: str | None = None
) -> Examples:
    """The texts of an entry. Of sentences each is there once: documents quote, and come again.

    `kind`, `heads`, `text`: the task's, by which an entry without a column is read. Raises DataError for a column that
    is not there, for pairs to be cut, and where no sentence is left.
    """
    if source.column is None or source.source.startswith("asset:"):
        column = text if source.column is None else source.column  # which an asset refuses by its name
        found = resolve_data(source.source, kind=kind, heads=heads, text=column, require_labels=False)
        found = replace(found, labels=None)
    else:
        # As a tagger reads it: a column of texts, or of tokens.
        found = read_texts(source.source, kind="token-classification", text=source.column)
    if not source.sentences:
        return found
    return replace(found, texts=tuple(dict.fromkeys(_sentences(source, found.texts))))


def _sentences(source: Source, texts: Iterable[Text]) -> list[str]:
    found: list[str] = []
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"{source.source}: holds pairs, which are not cut into sentences; name one column of them")
        found.extend(sentences(text, SHORTEST, LONGEST))
    if not found:
        raise DataError(f"{source.source}: holds no sentence of {SHORTEST} to {LONGEST} words; leave sentences out")
    return found
