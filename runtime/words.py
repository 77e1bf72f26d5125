"""Token ids of plain English text by a table of words that were met before.

BERT's tokenizers cut a text at spaces and punctuation, and what a word becomes does not depend on its neighbours. For
printable ASCII, where their normalizer does no more than lower the letters, a text is thus a row of words to look up;
whatever else there is goes to the library as before. Ids and truncation are the library's, which is asked for each word
once (tests/runtime/test_words.py).
"""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import Any

MOST = 32_768
"""Words that the table holds, a few MB; later ones are looked up by the library every time."""
LONGEST = 32
"""Letters of a word that the table takes."""


class Words:
    """The ids of texts for one library tokenizer, which `words_of` has found to be of the kind.

    `odd` matches what the table knows nothing of; `begin` and `end` are the ids around every text.
    """

    def __init__(self, backend: Any, lowercase: bool, odd: re.Pattern[str], begin: list[int], end: list[int]) -> None:
        self._backend, self._lowercase, self._odd = backend, lowercase, odd
        self._begin, self._end = begin, end
        self._table: dict[str, list[int]] = {}

    def encode(self, text: str, limit: int) -> tuple[list[int], bool] | None:
        """The ids, at most `limit` of them, and whether some were cut off; None: ask the library."""
        if self._odd.search(text):
            return None
        words = _WORD.findall(text.lower() if self._lowercase else text)
        table = self._table
        try:
            ids = [*self._begin, *chain.from_iterable(map(table.__getitem__, words))]
        except KeyError:
            if not all(map(self._known, words)):
                return None
            ids = [*self._begin, *chain.from_iterable(map(table.__getitem__, words))]
        room = limit - len(self._end)
        cut = len(ids) > room
        return (ids[:room] if cut else ids) + self._end, cut

    def _known(self, word: str) -> bool:
        """Whether the word is in the table, now at the latest."""
        if word not in self._table:
            if len(word) > LONGEST or len(self._table) >= MOST:
                return False
            self._table[word] = self._backend.encode(word, add_special_tokens=False).ids
        return True


_WORD = re.compile("[A-Za-z0-9]+|[^ A-Za-z0-9]")


def words_of(backend: Any, limit: int) -> Words | None:
    """A table for a library tokenizer cut at `limit` tokens; None where its words are not looked up one by one."""
    normalizer, cutter = _state(backend.normalizer), _state(backend.pre_tokenizer)
    if (
        normalizer.get("type") != "BertNormalizer"
        or not normalizer.get("clean_text")
        or cutter.get("type") != "BertPreTokenizer"
        or type(backend.model).__name__ != "WordPiece"
        or limit <= LONGEST
    ):
        return None
    # Added tokens are cut out of a text before anything else: where one could be, the library looks for it.
    contents = [token.content for token in backend.get_added_tokens_decoder().values()]
    marks = [next((c for c in content if not c.isalnum() and c != " "), "") for content in contents]
    if not all(marks):
        return None
    odd = re.compile(f"[^ -~]|[{re.escape(''.join(sorted(set(marks))))}]" if marks else "[^ -~]")
    sample = backend.encode("a")
    inner = [i for i, special in enumerate(sample.special_tokens_mask) if not special]
    if not inner:
        return None
    return Words(backend, bool(normalizer["lowercase"]), odd, sample.ids[: inner[0]], sample.ids[inner[-1] + 1 :])


def _state(part: Any) -> dict[str, Any]:
    """The settings of a part of a tokenizer, as its file has them."""
    found: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return found
