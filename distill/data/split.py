"""Train, dev and test parts that share no text, not even one that differs only in case or punctuation."""

import random
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace

from attar.runtime.data import Examples
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tokenizer import Text

# A blank stays a blank, so only other characters need a look.
_NON_WORD = re.compile(r"[^\w ]+")


@dataclass(frozen=True)
class Splits:
    """Three disjoint parts, and how many repeated and contradictorily labelled texts were left out."""

    train: Examples
    dev: Examples
    test: Examples
    duplicates: int = 0
    contradictions: int = 0


def normalise(text: Text) -> str:
    """The form in which two texts count as the same: NFKC, casefolded, non-word characters one space.

    Combining marks stay: without its vowel signs an Indic word would equal other words. A text without any
    word character, such as ":-)", keeps its characters, or all such texts would be one. Of a pair, the forms of
    both, a line each: no form has a line break in it.
    """
    if not isinstance(text, str):
        return "\n".join(map(normalise, text))
    # Casefolding can undo NFKC (and the reverse), so both are applied twice: the result is then stable.
    folded = text
    for _ in range(2):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).casefold())
    words = " ".join(_NON_WORD.sub(_keep_marks, folded).split())
    return words if any(char.isalnum() for char in words) else " ".join(folded.split())


def _keep_marks(match: re.Match[str]) -> str:
    # Variation selectors are marks too, but they only choose between an emoji's two looks.
    return "".join(
        char if unicodedata.category(char) in {"Mn", "Mc"} and not "\ufe00" <= char <= "\ufe0f" else " "
        for char in match[0]
    )


def split(examples: Examples, *, dev: float | int, test: float | int, seed: int) -> Splits:
    """Split after dropping duplicates: a float is a fraction of the texts kept, an int a number of them.

    Of texts with the same normal form the first is kept; if their classes contradict each other, none is.
    Numbers, spans and answers may differ: people measure and mark the same text in more than one way. The same
    examples in the same order with the same seed give the same parts; every part keeps the order of the
    examples. Raises SettingsError for an impossible size and DataError where nothing would be left to train
    on.
    """
    groups: dict[str, list[int]] = {}
    for index, text in enumerate(examples.texts):
        groups.setdefault(normalise(text), []).append(index)
    agreeing = [group for group in groups.values() if _agree(examples, group)]
    kept = [group[0] for group in agreeing]
    sizes = _size("dev", dev, len(kept)), _size("test", test, len(kept))
    if len(kept) - sum(sizes) < 1:
        raise DataError(
            f"{examples.source}: {len(kept)} different texts cannot give {sizes[0]} for dev, {sizes[1]} for "
            "test and any for training; give more data or ask for smaller parts"
        )
    shuffled = list(kept)
    random.Random(seed).shuffle(shuffled)
    cut = sizes[0], sum(sizes)
    return Splits(
        train=_take(examples, shuffled[cut[1] :], "train"),
        dev=_take(examples, shuffled[: cut[0]], "dev"),
        test=_take(examples, shuffled[cut[0] : cut[1]], "test"),
        duplicates=sum(len(group) - 1 for group in agreeing),
        contradictions=sum(len(group) for group in groups.values()) - sum(len(group) for group in agreeing),
    )


def join_answers(examples: Examples) -> Examples:
    """Questions with each question and context once, and with all the answers that their repeats were given.

    A model is right by any of them, and a repeat would be judged by its own answer alone.
    """
    found: dict[Text, tuple[object, ...]] = {}
    for text, answers in zip(examples.texts, examples.labels or (), strict=True):
        found[text] = tuple(dict.fromkeys((*found.get(text, ()), *answers)))
    return replace(examples, texts=tuple(found), labels=tuple(found.values()))


def remove_overlap(examples: Examples, *others: Examples) -> Examples:
    """`examples` without the texts whose normal form is in any of `others`; what is left keeps its order."""
    taken = {normalise(text) for other in others for text in other.texts}
    left = [index for index, text in enumerate(examples.texts) if normalise(text) not in taken]
    return replace(_take(examples, left, ""), source=examples.source)


def check_disjoint(splits: Splits) -> None:
    """Raise DataError, naming the sentence, if one is in two parts after normalisation."""
    home: dict[str, str] = {}
    for name, part in (("train", splits.train), ("dev", splits.dev), ("test", splits.test)):
        for text in part.texts:
            other = home.setdefault(normalise(text), name)
            if other != name:
                raise DataError(
                    f"{part.source}: {text!r} is in both {other} and {name}; remove it from one of them, "
                    "for example with remove_overlap"
                )


def _agree(examples: Examples, group: list[int]) -> bool:
    """Whether one label may stand for the group: only classes, or sets of them, can contradict each other."""
    if examples.labels is None or len(group) == 1:
        return True
    labels = {examples.labels[index] for index in group}
    return len(labels) == 1 or not all(map(_is_class, labels))


def _is_class(label: object) -> bool:
    return isinstance(label, str) or (isinstance(label, tuple) and all(isinstance(each, str) for each in label))


def _size(name: str, asked: float | int, available: int) -> int:
    if isinstance(asked, float):
        if not 0 <= asked < 1:
            raise SettingsError(f"{name}={asked}: a fraction must be at least 0 and below 1; for a number give an int")
        # A part that was asked for is never silently empty.
        return max(1, round(asked * available)) if asked else 0
    if isinstance(asked, bool) or asked < 0:
        raise SettingsError(f"{name}={asked}: must be a fraction below 1 or a number of texts, 0 or more")
    return asked


def _take(examples: Examples, indices: Iterable[int], part: str) -> Examples:
    order = sorted(indices)
    labels = None if examples.labels is None else tuple(examples.labels[index] for index in order)
    return Examples(tuple(examples.texts[index] for index in order), labels, f"{examples.source} ({part})")
