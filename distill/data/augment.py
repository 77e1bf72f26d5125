"""More text of the same kind: crops of the training texts, for distillation. The teacher labels them."""

from __future__ import annotations

import random

from attar.runtime.data import Examples

SHORTEST = 4
"""Words. A shorter crop says too little for a teacher to judge."""


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
