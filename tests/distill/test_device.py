"""Training and the teacher's passes on a GPU, by a pretended one: nothing is left behind on the CPU, and the student
that comes back is the one that the CPU trains, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.cli import main
from attar.compress.quantize import aware
from attar.distill import distil, finetune, processes, trainer
from attar.distill.device import CPU, chosen
from attar.distill.encoder import Encoder
from attar.distill.huggingface import HuggingFace
from attar.distill.resume import Checkpoints
from attar.distill.step import Context
from attar.distill.student import Student
from attar.distill.students import convolutional, recurrent, static, tfidf
from attar.distill.teacher import Teacher
from attar.runtime.data import Examples
from attar.runtime.errors import AttarError, SettingsError
from tests.distill.classroom import context
from tests.distill.pretended import GPU, NAME, There, pretended
from tests.distill.test_methods_train import METHODS
from tests.distill.test_supervision import trained
from tests.models import KINDS, MAX_LENGTH, corpus, make_checkpoint, make_student, quiet

SCHEDULE: dict[str, Any] = {"epochs": 1, "batch_size": 15, "learning_rate": 2e-3}
BOTH: tuple[dict[str, Any], ...] = ({"use": "soft_targets"}, {"use": "labels"})


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bf16 on the CPU, as there is none on the pretended GPU: both compute the same."""
    monkeypatch.setattr(trainer, "instruction_sets", frozenset)


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Context]:
    """By kind and family what a step may use, with a teacher of three layers; five texts of 30 have no labels."""
    place, made = tmp_path_factory.mktemp("device"), dict[tuple[str, ...], Context]()

    def where(kind: str = "text-classification", family: str = "bert") -> Context:
        if (kind, family) not in made:
            folder = make_checkpoint(place / f"{kind} {family}", family, kind=kind, layers=3)
            data = corpus(kind, 30, seed=3)
            labelled = Examples(data.texts[:25], (data.labels or ())[:25], data.source)
            taught = context(folder, place / f"targets {kind} {family}", data)
            more = Examples(data.texts[25:], None, data.source)
            made[kind, family] = replace(taught, train=labelled, unlabelled=more)
        return made[kind, family]

    return where


def student_of(where: Context) -> Student:
    return Student.load(where.teacher)


def there_and_here(work: Callable[[torch.device], Student]) -> tuple[Student, There]:
    """The student of a work on the pretended GPU, which has to be that of the CPU."""
    with pretended():  # which keeps the order of sums the same
        expected = work(CPU)
    with pretended() as there:
        found = work(GPU)
        assert not any(there.holds(x) for x in found.encoder.state_dict().values())
    assert there.memory and found.digest() == expected.digest()
    return found, there


def distilled(student: Student, where: Context, methods: Sequence[Any] = BOTH, **others: Any) -> tuple[Student, There]:
    settings = distil.Settings(methods=tuple(methods), **SCHEDULE | others)
    found, there = there_and_here(lambda device: distil.apply(student, settings, replace(where, device=device)))
    assert there.casts == {"cuda"} and found.lineage[-1]["trained_on"] == f"cuda ({NAME})"
    return found, there


@pytest.mark.parametrize("kind", ["text-classification", "multi-task"])
def test_every_method_learns_there(kind: str, classroom: Callable[..., Context], tmp_path: Path) -> None:
    """All at once, in a student of another width with a vocabulary of its own; with labels spread and given."""
    student = make_student(tmp_path / "m", kind=kind, layers=2, hidden=16, heads=2, seed=8)
    methods = [m | ({"relation_heads": 2} if m["use"] == "relations" else {}) for m in METHODS.values()]
    methods += [{"use": "pseudo_labels", "threshold": 0.0, "by": by} for by in ("teacher", "propagation")]
    distilled(replace(student, tokenizer=trained(60)), classroom(kind), methods, train_words=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_taught_there(kind: str, classroom: Callable[..., Context]) -> None:
    where = classroom(kind)
    distilled(student_of(where), where, layers=(1, 3))


NETWORKS: dict[str, Callable[[Student, Context], Student]] = {
    "lstm": lambda s, c: recurrent.apply(s, recurrent.Settings(width=16, hidden=12), c),
    "gru": lambda s, c: recurrent.apply(s, recurrent.Settings("gru", width=16, hidden=12, layers=2), c),
    "convolutional": lambda s, c: convolutional.apply(s, convolutional.Settings(width=16, filters=12), c),
    "static": lambda s, c: static.apply(s, static.Settings(width=16, hidden=12, bigrams=50), c),
    "tfidf": lambda s, c: tfidf.apply(s, tfidf.Settings(bigrams=50), c),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_learns_there(name: str, classroom: Callable[..., Context]) -> None:
    where = classroom()
    distilled(NETWORKS[name](student_of(where), where), where, train_words=True)


def test_biases_by_distance_and_layers_that_are_most_alike(classroom: Callable[..., Context]) -> None:
    where = classroom(family="mpnet")
    student, _ = distilled(student_of(where), where, [{"use": "hidden_states", "match": "auto"}], layers=(1, 3))
    assert student.lineage[-1]["matched"][0][-1] == 3


def test_training_under_rounding_comes_back_too(classroom: Callable[..., Context]) -> None:
    where, settings = classroom(), aware.Settings(**SCHEDULE)
    there_and_here(lambda device: aware.apply(student_of(where), settings, replace(where, device=device)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pairs"])
def test_a_teacher_is_fine_tuned_there(kind: str, classroom: Callable[..., Context], tmp_path: Path) -> None:
    where = classroom(kind)
    settings = finetune.Settings(**SCHEDULE, max_length=MAX_LENGTH)

    def tuned(device: torch.device) -> Student:
        out, task = tmp_path / device.type, student_of(where).task
        finetune.finetune(where.teacher, task, where.train, settings, out, quiet, None, device)
        return Student.load(out)

    _, there = there_and_here(tuned)
    assert there.casts == {"cuda"}


@pytest.mark.parametrize("kind", ["multi-task", "question-answering"])
def test_a_teacher_says_the_same_there(kind: str, classroom: Callable[..., Context], tmp_path: Path) -> None:
    where, states = classroom(kind), ("hidden0", "hidden2", "key3")
    texts = where.train.texts
    here = Teacher(where.teacher, student_of(where).task)
    expected = here.targets(texts, states, tmp_path / "here", quiet)
    with pretended() as there:
        teacher = Teacher(where.teacher, here.task, GPU)
        found = teacher.targets(texts, states, tmp_path / "there", quiet)
        assert teacher.answer(texts) == here.answer(texts)
    assert there.casts == {"cuda"}
    for mine, theirs in ((found.heads, expected.heads), (found.states, expected.states)):
        assert mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_a_batch_too_large_for_the_gpu_names_the_remedy(
    classroom: Callable[..., Context], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore advice.")

    where, student = classroom(), student_of(classroom())
    monkeypatch.setattr(Encoder, "forward", full)
    with pytest.raises(AttarError, match=r"too little memory \(CUDA .* 9 GiB\.\); lower batch_size or max_length"):
        distil.apply(student, distil.Settings(**SCHEDULE), where)
    monkeypatch.setattr(HuggingFace, "forward", full)
    for work in (lambda t: t.answer(("a",)), lambda t: t.targets(("a",), (), tmp_path / "new", quiet)):
        with pytest.raises(AttarError, match="too little memory"):
            work(Teacher(where.teacher, student.task))


class KilledError(Exception):
    """Stands for the end of the process."""


def killer(_: float, said: str) -> None:
    if said.startswith("step 1/"):
        raise KilledError


@pytest.mark.parametrize(("first", "second"), [(GPU, CPU), (CPU, GPU)], ids=["then on the CPU", "then on the GPU"])
def test_a_training_goes_on_elsewhere(
    first: torch.device, second: torch.device, classroom: Callable[..., Context], tmp_path: Path
) -> None:
    where, told = classroom(), list[str]()
    methods = (*BOTH, {"use": "contrastive", "bank": 40}, {"use": "hidden_states"})
    settings = distil.Settings(methods=methods, **SCHEDULE | {"epochs": 2})
    student = make_student(tmp_path / "m", layers=2, hidden=16, heads=2, seed=8)
    kept = Checkpoints(tmp_path / "kept", every=0)

    def trained_on(device: torch.device, progress: Any, checkpoints: Checkpoints | None) -> str:
        own = replace(where, device=device, progress=progress, checkpoints=checkpoints)
        with pretended():
            return distil.apply(student, settings, own).digest()

    with pytest.raises(KilledError):
        trained_on(first, killer, kept)
    found = trained_on(second, lambda _, said: told.append(said), kept)
    assert told[0] == "note: going on from the checkpoint of step 1/4"
    assert found == trained_on(CPU, quiet, None)


def test_the_pretence_refuses_what_a_gpu_refuses() -> None:
    with pretended():
        here, there = torch.ones(3), torch.ones(3).to(GPU)
        assert (here.device, there.device, (2 * there)[1:].device, there.cpu().device) == (CPU, GPU, GPU, CPU)
        assert torch.zeros(2, device=GPU).device == there.new_zeros(2).device == GPU
        for mixed in (lambda: here + there, lambda: here[there.long()], lambda: torch.stack([there, here])):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there * torch.tensor(2.0))[torch.tensor([0])].device == GPU
        layer = torch.nn.Linear(3, 1).to(GPU)
        with pytest.raises(RuntimeError, match="same device"):
            layer(here)
        layer(there).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.device == GPU


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with two; the ones that were made the current device."""
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_has_a_gpu_of_its_own(name: str, two_gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert chosen(name) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert chosen(name) == torch.device("cuda", 1) and two_gpus == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SettingsError, match="process 3 of this machine has no GPU of its own, for PyTorch finds 2"):
        chosen(name)
    assert chosen("cpu") == CPU


def test_tensors_on_gpus_travel_over_nccl(two_gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.dist, "is_nccl_available", lambda: True)
    assert processes._backend() == "cpu:gloo,cuda:nccl"


@pytest.mark.parametrize("verb", [["run", "r.toml"], ["ladder", "r.toml"], ["distill", "teacher", "--data", "d.csv"]])
def test_a_gpu_that_is_not_there_is_an_error_before_any_work(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen("auto") == CPU
    assert main([*verb, "--out", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "finds no GPU here; install a PyTorch with CUDA" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
