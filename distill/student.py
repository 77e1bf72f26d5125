"""A student: network, tokenizer, task and lineage; saved as JSON and safetensors, reloaded without any user's class."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from attar.distill.batches import run
from attar.distill.checkpoint import read_tokenizer, read_weights
from attar.distill.encoder import Encoder
from attar.distill.importers import import_checkpoint
from attar.distill.network import Network, network_of
from attar.runtime.bundle import aside
from attar.runtime.errors import ModelError, SettingsError
from attar.runtime.tasks import task_of
from attar.runtime.tasks.base import Outputs, Task
from attar.runtime.tokenizer import Encoded, Text

SCHEMA = 2


@dataclass(frozen=True)
class Student:
    """Frozen by convention: a step returns a new one. `plan` is the quantization plan that export lowers."""

    encoder: Network
    tokenizer: bytes
    task: Task
    pad_id: int = 0
    plan: Mapping[str, Any] | None = None
    lineage: tuple[Mapping[str, Any], ...] = ()

    @property
    def transformer(self) -> Encoder:
        """The network, where it is a transformer encoder; `SettingsError` where it is not."""
        if not isinstance(self.encoder, Encoder):
            kind = self.encoder.shape.kind
            raise SettingsError(
                f"only a transformer of attar's own form can be changed so, and this one is {kind}; drop the step"
            )
        return self.encoder

    def copy(self) -> Student:
        """A student whose weights may be changed without touching this one's."""
        return replace(self, encoder=copy.deepcopy(self.encoder))

    def with_step(self, use: str, settings: Mapping[str, Any], **facts: Any) -> Student:
        """The same student with one more entry in its lineage."""
        return replace(self, lineage=(*self.lineage, {"use": use, "settings": dict(settings), **facts}))

    def encode(self, texts: Sequence[Text]) -> Encoded:
        """The rows of each text, as the runtime will see them."""
        return self.task.encode(self.task.reader(self.tokenizer, self.pad_id), texts)

    def outputs(self, encoded: Encoded, batch: int = 64) -> Outputs:
        """Raw outputs computed by PyTorch in fp32: what an exported file is compared with."""
        self.encoder.eval()
        return run(self.encoder, self.task.heads, encoded, self.pad_id, batch)

    def logits(self, texts: Sequence[Text]) -> torch.Tensor:
        """Raw outputs of the first head: (N, C); of one that reads tokens, all rows one after another (T, C)."""
        found = self.outputs(self.encode(texts))[self.task.heads[0].name]
        return torch.from_numpy(found if isinstance(found, np.ndarray) else np.concatenate(found))

    def answer(self, texts: Sequence[Text]) -> list[Any]:
        """Typed answers, computed by PyTorch."""
        encoded = self.encode(texts)
        return self.task.answers(encoded, self.outputs(encoded))

    def save(self, folder: Path) -> None:
        """student.json, model.safetensors and tokenizer.json, written aside and renamed."""
        record = {
            "schema": SCHEMA,
            "shape": self.encoder.shape.to_json(),
            "task": self.task.to_json(),
            "pad_id": self.pad_id,
            "plan": None if self.plan is None else dict(self.plan),
            "lineage": [dict(step) for step in self.lineage],
        }
        with aside(folder) as part:
            (part / "student.json").write_text(
                json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            (part / "tokenizer.json").write_bytes(self.tokenizer)
            save_file({k: v.contiguous() for k, v in self.encoder.state_dict().items()}, part / "model.safetensors")

    @staticmethod
    def load(folder: Path) -> Student:
        """A saved student, or any fine-tuned model of a known family in a Hugging Face folder."""
        if not (folder / "student.json").is_file():
            return Student.from_checkpoint(folder)
        try:
            record = json.loads((folder / "student.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{folder / 'student.json'} is not valid JSON: {error}") from error
        if record.get("schema") != SCHEMA:
            raise ModelError(
                f"{folder} has student schema {record.get('schema')!r}, this attar reads {SCHEMA}: make it again"
            )
        encoder = network_of(record["shape"])
        encoder.load_state_dict(read_weights(folder / "model.safetensors"))
        return Student(
            encoder.eval(),
            read_tokenizer(folder),
            task_of(record["task"]),
            record["pad_id"],
            record["plan"],
            tuple(record["lineage"]),
        )

    @staticmethod
    def from_checkpoint(folder: Path) -> Student:
        if not folder.is_dir():
            raise ModelError(f"no model folder at {folder}")
        found = import_checkpoint(folder)
        return Student(found.encoder, found.tokenizer, found.task, found.pad_id)

    def digest(self) -> str:
        """sha256 of everything that decides what the student computes."""
        state = hashlib.sha256(self.tokenizer)
        state.update(json.dumps([self.encoder.shape.to_json(), self.task.to_json(), self.pad_id, self.plan]).encode())
        for name, value in sorted(self.encoder.state_dict().items()):
            state.update(name.encode())
            state.update(value.contiguous().numpy().tobytes())
        return state.hexdigest()
