"""Texts cut into sentences, by a plain rule: what a teacher labels need not be whole."""

from __future__ import annotations

import re

# Abbreviations are cut too.
_END = re.compile(r"(?<=[.!?])\s+|[\r\n]+")


def sentences(text: str, shortest: int, longest: int) -> list[str]:
    """Those of `shortest` to `longest` words: one ends at a line's end, and behind . ! or ? before a space."""
    parts = (part.strip() for part in _END.split(text))
    return [part for part in parts if shortest <= len(part.split()) <= longest]
