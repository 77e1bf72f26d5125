"""The tokenizers and cases that golden/make_qa.py wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attar.runtime.tasks.qa import QuestionAnswering
from attar.runtime.tokenizer import Tokenizer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/qa.json").read_text(encoding="utf-8"))
TOKENIZERS = {kind: json.dumps(record).encode() for kind, record in GOLDEN["tokenizers"].items()}
READERS: dict[Any, Tokenizer] = {}


def reader(task: QuestionAnswering, kind: str = "wordpiece") -> Tokenizer:
    """The tokenizer as the task cuts with it, made once."""
    key = kind, task.max_length, task.stride
    if key not in READERS:
        READERS[key] = task.reader(TOKENIZERS[kind], 0)
    return READERS[key]
