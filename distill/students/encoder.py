"""A transformer student that begins elsewhere than at the teacher: at another pretrained encoder, or narrower.

A narrow one keeps the directions of the states in which the given student's word embeddings vary most (principal
components), as every matrix that reads or writes the states is turned into them (Ashkboos et al. 2024, SliceGPT,
section 3, there for each block; one rotation for all is what a post-norm encoder allows).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attar.distill.data.assets import resolve_model
from attar.distill.distil import take_layers
from attar.distill.encoder import Encoder
from attar.distill.finetune import local_folder
from attar.distill.heads import head_shape
from attar.distill.importers import import_base
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.trainer import seed_everything
from attar.runtime.errors import SettingsError
from attar.runtime.tasks.base import Task, shortened


@dataclass(frozen=True)
class Settings:
    """`model`: a pretrained encoder (`asset:minilm`, a folder, a hub id) whose tokenizer the student takes too; empty:
    the given student. `layers`: which of its layers (1-based), all if empty. `width`: the hidden size (0: as it is),
    a multiple of the head size."""

    model: str = ""
    layers: tuple[int, ...] = ()
    width: int = 0
    seed: int = 0


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The new student; its heads are new where the encoder is."""
    seed_everything(settings.seed)
    if settings.model:
        student = pretrained(local_folder(resolve_model(settings.model)), student.task)
    if settings.layers:
        student = take_layers(student, settings.layers)
    if settings.width:
        student = narrowed(student, settings.width)
    return student.copy().with_step("distill.students.encoder", asdict(settings))


def pretrained(folder: Path, task: Task) -> Student:
    """The encoder in a folder with untrained heads for the task."""
    found = import_base(folder)
    old, hidden = found.encoder, found.encoder.shape.hidden
    wrong = [h for h in task.heads if h.objective == "vector" and h.outputs != hidden]
    if wrong:
        raise SettingsError(
            f"the teacher's vectors have {wrong[0].outputs} numbers, and the states in {folder} {hidden}: "
            "an embedder must be as wide as its teacher"
        )
    heads = tuple(head_shape(h, hidden) for h in task.heads)
    encoder = Encoder(replace(old.shape, heads=heads))
    encoder.load_state_dict({k: v for k, v in old.state_dict().items() if not k.startswith("heads.")}, strict=False)
    for name, parameter in encoder.heads.named_parameters():
        torch.nn.init.zeros_(parameter) if name.endswith("bias") else torch.nn.init.normal_(parameter, std=0.02)
    length = min(task.max_length, old.shape.positions)
    return Student(encoder.eval(), found.tokenizer, shortened(task, length), found.pad_id)


def principal(words: Tensor, width: int) -> Tensor:
    """(H, width): orthonormal directions of the largest variance of the rows of `words` (V, H), signs fixed."""
    centred = words.double() - words.double().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    basis = vectors.flip(-1)[:, :width]
    signs = torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))
    result: Tensor = (basis * signs).to(words.dtype)
    return result


def narrowed(student: Student, width: int) -> Student:
    """The student with states of another width; whatever reads or writes them is rotated into `principal`."""
    old = student.transformer
    if not 0 < width <= old.shape.hidden:
        raise SettingsError(f"width must be between 1 and the encoder's {old.shape.hidden}, not {width}")
    return projected(student, principal(old.words.weight.detach(), width))


def projected(student: Student, basis: Tensor) -> Student:
    """The student with its states in the directions of `basis` (H, width), whatever reads or writes them with them.

    LayerNorm acts on single dimensions, so its scale and bias go with a rotation only on average: the scale becomes
    the mean of the old, and a distillation has to follow.
    """
    old = student.transformer
    if old.shape.word_rank or any(layer.ranks for layer in old.shape.layers):
        raise SettingsError("a factorized student cannot be made narrower; factorize afterwards")
    if any(h.objective == "vector" for h in student.task.heads):
        raise SettingsError("an embedder must be as wide as its teacher; leave out width")
    result = Encoder(replace(old.shape, hidden=basis.shape[1]))
    state = old.state_dict()
    apart = _apart(old)
    result.load_state_dict({k: v if k.rpartition(".")[0] in apart else turned(k, v, basis) for k, v in state.items()})
    return replace(student, encoder=result.eval())


NORMS = ("embedding_norm", "attention_norm", "ffn_norm")
READERS = ("query", "key", "value", "ffn_in", "dense", "classifier")
WRITERS = ("output", "ffn_out")
TABLES = ("words", "positions", "types")


def readers(encoder: Encoder) -> dict[str, nn.Linear]:
    """Every matrix that reads the states, by name."""
    apart = _apart(encoder)
    found = {n: m for n, m in encoder.named_modules() if isinstance(m, nn.Linear)}
    return {n: m for n, m in found.items() if n.rpartition(".")[2] in READERS and n not in apart}


def _apart(encoder: Encoder) -> set[str]:
    """Classifiers behind a hidden layer of their own, which do not read the states."""
    return {f"heads.{h.name}.classifier" for h in encoder.shape.heads if h.dense}


def turned(name: str, value: Tensor, basis: Tensor) -> Tensor:
    """A parameter of an encoder with its side of the states in the directions of `basis` (H, W)."""
    module, _, part = name.rpartition(".")
    kind = module.rpartition(".")[2]
    if kind in TABLES:
        return value @ basis
    if kind in NORMS:
        return value.mean().expand(basis.shape[1]).clone() if part == "weight" else value @ basis
    if kind in WRITERS:
        return basis.T @ value
    if kind in READERS and part == "weight":
        return value @ basis
    return value
