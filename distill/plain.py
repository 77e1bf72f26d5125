"""A network of a family that `Encoder` does not import: transformers' own module, which can be converted as it is.

It is judged, exported and served like any student, but nothing in it can be cut, and it is not saved as one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attar.distill.checkpoint import read_config, read_task, read_tokenizer, require_finite
from attar.distill.heads import HeadShape, Outputs, head_shape
from attar.distill.huggingface import HuggingFace, load_transformers
from attar.distill.network import Network
from attar.distill.student import Student
from attar.runtime.errors import ModelError
from attar.runtime.tasks.base import Task, shortened


@dataclass(frozen=True)
class PlainShape:
    """Sizes of a model of transformers, for the model card; `family` is its `model_type`."""

    kind: ClassVar[str] = "plain"
    family: str
    vocab: int
    hidden: int
    layers: int
    positions: int
    heads: tuple[HeadShape, ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


class Plain(Network):
    """A model of transformers with the heads of its task."""

    def __init__(self, model: HuggingFace, positions: int) -> None:
        super().__init__()
        self.model = model
        words = model.model.get_input_embeddings()
        assert isinstance(words, nn.Embedding)
        self.shape = PlainShape(
            family=str(model.model.config.model_type),
            vocab=words.num_embeddings,
            hidden=model.hidden_size,
            layers=model.layers,
            positions=positions,
            heads=tuple(head_shape(h, model.hidden_size) for h in model.task.heads),
        )

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Outputs:
        """Token ids, mask and token types (B, T) -> the heads' outputs; no states are taught."""
        result: Outputs = self.model(ids, mask, types)
        return result


def plain_student(folder: Path, longest: int) -> Student:
    """The fine-tuned model of a folder as it is, reading at most `longest` tokens."""
    config = read_config(folder)
    positions = min(int(config.get("max_position_embeddings") or longest), longest)
    task = read_task(folder, positions)
    model = HuggingFace(folder, task).eval()
    require_finite(model.state_dict(), f"{folder}: ")
    require_heads(folder, task)
    readable = longest_row(model, folder, positions)
    task = shortened(task, min(task.max_length, readable))
    return Student(Plain(model, readable).eval(), read_tokenizer(folder), task, model.pad_id)


def require_heads(folder: Path, task: Task) -> None:
    """`ModelError` where transformers would fill in random numbers for weights that the folder lacks."""
    _, found = load_transformers(task.kind, folder, {"output_loading_info": True})
    missing = sorted(found["missing_keys"])
    if missing and task.kind != "embeddings":  # whose pooler, if any, is not read
        raise ModelError(f"{folder}: no {missing[0]!r} among the weights: fine-tune it first")


def longest_row(model: HuggingFace, folder: Path, positions: int) -> int:
    """How many tokens the model reads: its positions, or fewer where they are counted from behind the padding token.

    No file says which, so it is tried.
    """
    for length in (positions, positions - model.pad_id - 1):
        token = 1 if model.pad_id != 1 else 0
        ids = torch.full((1, max(length, 1)), token)
        try:
            with torch.no_grad():
                model(ids, torch.ones_like(ids))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            continue
        return length
    raise ModelError(f"{folder} cannot be run on token ids and a mask alone: {reason}")
