"""More text of the same kind, made of the training texts, for distillation. The teacher labels it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from attar.distill.data.resample import masked, redrawn, replaced
from attar.distill.data.split import normalise
from attar.distill.data.words import read_mask, read_words
from attar.runtime.data import Examples
from attar.runtime.tokenizer import Text

SHORTEST = 4
"""Words. A shorter crop says too little for a teacher to judge."""


@dataclass(frozen=True)
class Augmentation:
    """How many texts are made of each training text, by the way that they are made."""

    crops: int = 0
    replacements: int = 0
    ngrams: int = 0
    masks: int = 0
    seed: int = 13


def augmented(train: Examples, wanted: Augmentation, model: Callable[[], Path], *apart: Examples) -> Examples:
    """The new texts, crops first. Seeded.

    `model`: the folder with word embeddings and tokenizer, asked for by replacements and masks alone. Of what these and
    n-grams give no text has the normal form of another new one, of one in `train` or of one `apart`: dev, test, other
    unlabelled texts. Crops still have to be told apart from these.
    """
    spans = crops(train, wanted.crops, wanted.seed)
    made: list[Iterator[list[Text]]] = []
    if wanted.replacements:
        made.append(islice(replaced(train.texts, read_words(model()), wanted.seed), wanted.replacements))
    if wanted.ngrams:
        made.append(islice(redrawn(train.texts, wanted.seed), wanted.ngrams))
    if wanted.masks:
        made.append(islice(masked(train.texts, read_mask(model()), wanted.seed), wanted.masks))
    if not made:
        return spans
    seen = {normalise(text) for part in (train, spans, *apart) for text in part.texts}
    found: dict[str, Text] = {}
    for text in (text for copies in made for batch in copies for text in batch):
        form = normalise(text)
        if form not in seen:
            found.setdefault(form, text)
    return Examples(spans.texts + tuple(found.values()), None, f"texts made of {train.source}")


def crops(examples: Examples, per_text: int, seed: int) -> Examples:
    """`per_text` random spans of 40-90 % of each text's words; texts too short to crop give none. Seeded.

    Pairs give none either: a part of one text may no longer go with the other, such as a context without the answer.
    """
    rng = random.Random(seed)
    found = []
    for text in examples.texts:
        if not isinstance(text, str):
            continue
        words = text.split()
        for _ in range(per_text):
            length = round(len(words) * rng.uniform(0.4, 0.9))
            if SHORTEST <= length < len(words):
                start = rng.randrange(len(words) - length + 1)
                found.append(" ".join(words[start : start + length]))
    return Examples(tuple(dict.fromkeys(found)), None, f"crops of {examples.source}")
