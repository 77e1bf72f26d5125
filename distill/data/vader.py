"""The rated sentences of the VADER paper: film reviews, product reviews, editorials and tweets.

C. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM
2014. At least 15 people rated each sentence from -4 (very negative) to 4; its rating is their mean, but for some 200
made-up tweets in which the authors vary punctuation, capitals and adverbs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from attar.distill.data.split import normalise
from attar.runtime.data import Examples
from attar.runtime.errors import AssetError, DataError

FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
"""By corpus; each line is `id TAB rating TAB text` and ends in CR LF, the last in nothing."""
PARTS = ("train", "dev", "test")
SHARES = {"test": 15, "dev": 5, "train": 80}
"""Percent of the documents, in the order in which a text that is in several parts may stay: test first."""
CLEAR = 0.5
"""Below this distance from 0 the raters saw no clear sentiment."""


@dataclass(frozen=True)
class Sentence:
    """One line; `document` is the review or editorial it comes from, or the line itself where that is not known."""

    corpus: str
    document: str
    text: str
    rating: float


def movie(folder: Path) -> Examples:
    """The film sentences with clear sentiment, 'positive' or 'negative'."""
    clear = [s for s in sentences(folder, "movie") if abs(s.rating) >= CLEAR]
    labels = tuple("positive" if s.rating > 0 else "negative" for s in clear)
    return Examples(tuple(s.text for s in clear), labels, "asset:vader-movie")


def unlabelled(folder: Path) -> Examples:
    """All other texts, without labels."""
    texts = [s.text for corpus in FILES if corpus != "movie" for s in sentences(folder, corpus)]
    texts += [s.text for s in sentences(folder, "movie") if abs(s.rating) < CLEAR]
    return Examples(tuple(texts), None, "asset:vader-unlabelled")


def ratings(folder: Path, part: str) -> Examples:
    """One part, 'train', 'dev' or 'test', of all four corpora, with ratings from -4 to 4; see `assets.vader_ratings`.

    Raises AssetError for another part.
    """
    if part not in PARTS:
        raise AssetError(f"asset:vader-ratings has no part {part!r}; the known ones are {', '.join(PARTS)}")
    found: dict[str, list[Sentence]] = {name: [] for name in SHARES}
    for corpus in FILES:
        for sentence in sentences(folder, corpus):
            found[part_of(corpus, sentence.document)].append(sentence)
    taken: set[str] = set()
    kept: list[Sentence] = []
    for name, members in found.items():
        kept = []
        for sentence in members:
            form = normalise(sentence.text)
            if form not in taken:
                taken.add(form)
                kept.append(sentence)
        if name == part:
            break
    return Examples(tuple(s.text for s in kept), tuple(s.rating for s in kept), f"asset:vader-ratings/{part}")


def part_of(corpus: str, document: str) -> str:
    """The part of a document, by the sha256 of its name: the same on every machine, whatever else is in the data."""
    digest = hashlib.sha256(f"{corpus}/{document}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") % sum(SHARES.values())
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    raise AssertionError("unreachable: place is below the sum of the shares")


def sentences(folder: Path, corpus: str) -> list[Sentence]:
    """The lines of a corpus in their order. Raises DataError for one that cannot be read."""
    path, found = folder / FILES[corpus], []
    for number, line in enumerate(path.read_bytes().decode("utf-8").split("\n"), 1):
        fields = line.strip().split("\t", 2)
        if fields == [""]:
            continue
        try:
            name, rating, text = fields
            # 'document_sentence' in amazon and nyt; a running number, so a document of its own, in the others.
            found.append(Sentence(corpus, name.partition("_")[0], text.strip(), float(rating)))
        except ValueError as error:
            raise DataError(
                f"{path}: line {number}: is not 'id, rating, text'; delete the folder to fetch it"
            ) from error
    return found
