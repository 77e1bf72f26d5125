"""seqeval 1.2.2: `python tests/golden/make_entities.py` in an environment with it writes entities.json beside this
file: the entities that seqeval reads in random tags, invalid sequences included, and the strict F1 it gives them.

Entities are [first, last, type]. Of BIO and BIOES they are those of its default mode, of BILOU those of the strict one.
"""

import json
import random
from pathlib import Path

from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB2, Entities

TYPES = ("city", "person")


def arbitrary(rng: random.Random, prefixes: str) -> list[str]:
    """Any tags in any order, so mostly an invalid sequence; O is as likely as all others together."""
    return [
        "O" if rng.random() < 0.4 else f"{rng.choice(prefixes)}-{rng.choice(TYPES)}" for _ in range(rng.randrange(13))
    ]


def valid(rng: random.Random, *, bilou: bool) -> list[str]:
    """A valid sequence, in BILOU or IOB2."""
    tags: list[str] = []
    while len(tags) < 10:
        type_, length = rng.choice(TYPES), rng.randrange(-2, 4)
        run = ["B", *"I" * (length - 1)][: max(0, length)]
        if bilou and run:
            run = ["U"] if length == 1 else [*run[:-1], "L"]
        tags += [f"{prefix}-{type_}" for prefix in run] or ["O"]
    return tags


def iob2(tags: list[str]) -> list[str]:
    """The valid sequence of the entities that seqeval, not strict, reads in any sequence."""
    result = ["O"] * len(tags)
    for type_, first, last in get_entities(tags):
        result[first : last + 1] = [f"B-{type_}", *[f"I-{type_}"] * (last - first)]
    return result


def lines(cases: list[object]) -> str:
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"


def main() -> None:
    rng = random.Random(0)
    read = [arbitrary(rng, "BI") for _ in range(40)] + [arbitrary(rng, "BIES") for _ in range(60)]
    decoded: list[object] = [
        {"tags": tags, "entities": [[first, last, type_] for type_, first, last in get_entities(tags)]} for tags in read
    ]
    for _ in range(20):
        tags = valid(rng, bilou=True)
        found = Entities([tags], BILOU).entities[0]
        decoded.append({"tags": tags, "entities": [[e.start, e.end - 1, e.tag] for e in found]})
    scored: list[object] = []
    for _ in range(10):
        true = [valid(rng, bilou=False) for _ in range(4)]
        # Mostly right, so that the score tells something.
        given = [[t if rng.random() < 0.8 else rng.choice(arbitrary(rng, "BI") or ["O"]) for t in row] for row in true]
        f1 = f1_score(true, [iob2(row) for row in given], mode="strict", scheme=IOB2)
        scored.append({"true": true, "given": given, "f1": float(f1)})
    content = f'{{"decoded": {lines(decoded)},\n"scored": {lines(scored)}}}\n'
    Path(__file__).with_name("entities.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
