"""The values of a row as people write them: texts, classes, numbers, tags, entities and answers, each checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TypeGuard

from attar.runtime.errors import DataError
from attar.runtime.tasks.spans import OUTSIDE, Span, split_tag, tags_to_spans, words_of

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def plain_text(where: str, column: str, value: object) -> str:
    """A text as it stands. Raises DataError for one that is blank or that no tokenizer can read."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"{where}: the text in column {column!r} is empty; fill it in or remove the row")
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r} holds a {type(value).__name__}, not a text; name the text column")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError(f"{where}: the text holds half a surrogate pair, which no tokenizer can read; mend the escape")
    return value


def class_name(where: str, value: object, names: Sequence[str] | None) -> str | None:
    """The label as a string; None for null, blank, NaN, and the -1 of Hugging Face's ClassLabel."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if names is not None and isinstance(value, int):
        if not -1 <= value < len(names):
            raise DataError(f"{where}: label {value}, but there are only {len(names)} class names; mend the label")
        return names[value] if value >= 0 else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float):
        return str(value).strip() or None
    raise DataError(f"{where}: the label is a {type(value).__name__}; give one name or number a text")


def number(where: str, value: object) -> float | None:
    """The label as a finite number; None for null, blank and NaN. Raises DataError for anything else."""
    if isinstance(value, str):
        value = value.strip()
        if "," in value and _NUMBER.fullmatch(value.replace(",", ".", 1)):
            raise DataError(f"{where}: the label {value!r} has a comma; write decimals with a point: 3.5")
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    written = isinstance(value, str) and _NUMBER.fullmatch(value) is not None
    found = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool) and (written or not isinstance(value, str)):
        with suppress(OverflowError):  # an integer of hundreds of digits
            found = float(value)
    if not math.isfinite(found):
        raise DataError(f"{where}: the label {value!r} is not a finite number; mend it, or choose a kind with classes")
    return found


def token_text(where: str, column: str, value: object) -> str:
    """The tokens of a row joined by single spaces. Raises DataError for what is no token, or would be several."""
    if value is None:
        return ""
    if not isinstance(value, list):
        raise DataError(
            f"{where}: column {column!r} holds a {type(value).__name__}, not a list of tokens; "
            "use a JSON or CoNLL file, or name a column of texts"
        )
    for number, token in enumerate(value, 1):
        if not isinstance(token, str):
            raise DataError(f"{where}: token {number} is a {type(token).__name__}, not a text; mend the tokens")
        if token.split() != [token]:
            fault = "holds white space" if token.strip() else "is empty"
            raise DataError(f"{where}: token {number}, {token!r}, {fault}; split or remove it, and its tag")
    return " ".join(value)


def spans(
    where: str,
    text: object,
    value: object,
    column: str,
    names: Sequence[str] | None,
    one_form: Callable[[str, str], None],
) -> tuple[Span, ...] | None:
    """Typed spans from a list of tags where `text` is a checked list of tokens, else from a list of entities.

    `names`: what integer tags mean; `one_form(tag, form)` refuses a form of tags unlike that of earlier ones.
    None where `value` is None. Raises DataError.
    """
    if value is None:
        return None
    if not isinstance(value, list):
        raise DataError(
            f"{where}: column {column!r} holds a {type(value).__name__}, not a list; use a JSON or CoNLL file"
        )
    if isinstance(text, str):
        return _entities(where, text, value)
    assert isinstance(text, list)  # token_text has seen it
    if len(value) != len(text):
        raise DataError(f"{where}: {len(text)} tokens but {len(value)} tags; give every token one tag")
    tags = [_tag(where, number, tag, names) for number, tag in enumerate(value, 1)]
    words = words_of(" ".join(text))
    prefixed = False
    for tag in dict.fromkeys(tags):
        if tag != OUTSIDE:
            prefixed = bool(split_tag(tag)[0])
            one_form(tag, "a tag with a prefix" if prefixed else "a tag without a prefix such as B-")
    if prefixed:
        return tags_to_spans(tags, words)
    # Without prefixes nothing says that two words belong together: parts of speech, say.
    return tuple((start, end, tag) for (start, end), tag in zip(words, tags, strict=True) if tag != OUTSIDE)


def _tag(where: str, number: int, tag: object, names: Sequence[str] | None) -> str:
    if isinstance(tag, int) and not isinstance(tag, bool):
        if names is None:
            raise DataError(f"{where}: tag {number} is the number {tag}, whose name is unknown; write tags as strings")
        if not 0 <= tag < len(names):
            raise DataError(f"{where}: tag {number} is {tag}, but there are {len(names)} class names; mend the tag")
        tag = names[tag]
    if not isinstance(tag, str) or not tag.strip():
        raise DataError(f"{where}: tag {number} is {tag!r}; write O, or a tag such as B-person")
    return tag.strip()


def _entities(where: str, text: str, value: list[object]) -> tuple[Span, ...]:
    found: list[Span] = []
    for number, entity in enumerate(value, 1):
        given: Mapping[str, object] = entity if isinstance(entity, Mapping) else {}
        start, end, label = given.get("start"), given.get("end"), given.get("label")
        if not _whole(start) or not _whole(end) or not isinstance(label, str) or not label.strip():
            raise DataError(
                f'{where}: entity {number} is {entity!r}; write {{"start": 0, "end": 5, "label": "person"}}, or name '
                "a column of tokens if these are tags"
            )
        if not 0 <= start < end <= len(text):
            raise DataError(
                f"{where}: entity {number} goes from {start} to {end}, but the text from 0 to {len(text)}; "
                "count characters, with the end behind the last"
            )
        found.append((start, end, label.strip()))
    found.sort()
    for one, other in pairwise(found):
        if other[0] < one[1]:
            raise DataError(f"{where}: the entities {one} and {other} overlap; keep one of them")
    return tuple(found)


def answers(where: str, value: object, context: str) -> tuple[tuple[str, int], ...] | None:
    """The (answer, start) of a list of {"text", "start"} or of {"text": [...], "answer_start": [...]}.

    None where `value` is None. Raises DataError for an answer that is not at its start in the context.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f'{where}: the answers {value!r} need "text" and "answer_start", two lists of one length')
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        pairs = [(each.get("text"), each.get("start", each.get("answer_start"))) for each in value]
    else:
        raise DataError(f'{where}: the answers are {value!r}; write [{{"text": "...", "start": 0}}], or [] for none')
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip() or not _whole(start):
            raise DataError(f"{where}: an answer has text {text!r} and start {start!r}; give a text and a whole number")
        if start < 0 or context[start : start + len(text)] != text:
            raise DataError(f"{where}: {_misplaced(text, start, context)}; count characters of the context, from 0")
    return tuple(pairs)


def _misplaced(text: str, start: int, context: str) -> str:
    there = context[start : start + len(text)] if start >= 0 else ""
    elsewhere = context.find(text)
    found = f"it is at {elsewhere}" if elsewhere >= 0 else "it is nowhere in the context"
    return f"the answer {text!r} is not at {start}, where {there!r} stands; {found}"


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
