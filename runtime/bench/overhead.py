"""What attar itself costs on top of the tokenizer and the engine that it calls."""

from __future__ import annotations

from collections.abc import Sequence

from attar.runtime.bench.paired import Call, Ratio, compare_each
from attar.runtime.engines.onnx import OnnxEngine
from attar.runtime.errors import SettingsError
from attar.runtime.model import Model
from attar.runtime.tokenizer import Text, pad


def overhead(model: Model, texts: Sequence[Text], rounds: int = 9) -> Ratio:
    """Time of `model(text)` over that of a bare tokenizer encode plus a bare `session.run` on ready arrays.

    1.0 would mean that attar costs nothing. Measured text by text, both sides in turns, on the same session.
    """
    if not texts:
        raise SettingsError("the overhead needs at least one text")
    return compare_each([(_ours(model, text), _bare(model, text)) for text in texts], rounds)


def _ours(model: Model, text: Text) -> Call:
    return lambda: model.answer([text])


def _bare(model: Model, text: Text) -> Call:
    """Only the two library calls that no wrapper could avoid; everything around them is made ready here."""
    if not isinstance(model.engine, OnnxEngine):
        raise SettingsError(f"the overhead is measured for ONNX Runtime only, not for {model.engine.name}")
    encode, session = model.tokenizer._backend.encode, model.engine._session
    encoded = model.task.encode(model.tokenizer, [text])
    # As it was encoded: the tokenizer panics at a question that leaves its context no room, and tasks cut it before.
    read = text if encoded.texts is None else encoded.texts[0]
    given = (read,) if isinstance(read, str) else read
    ids, mask = pad(encoded.ids, model.tokenizer.pad_id)
    feeds, outputs = {"input_ids": ids, "attention_mask": mask}, model.engine._outputs
    if encoded.types is not None and model.engine._typed:
        feeds["token_type_ids"] = pad(encoded.types, 0)[0]

    def call() -> None:
        encode(*given)
        session.run(outputs, feeds)

    return call
