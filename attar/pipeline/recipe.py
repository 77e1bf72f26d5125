"""The recipe: everything that decides a run, read from one TOML file. An unknown key is refused with the known ones."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from attar.compress.gate import GateSettings
from attar.distill import finetune
from attar.distill.data.augment import Augmentation
from attar.distill.data.unlabelled import Source
from attar.distill.ensemble import WAYS
from attar.distill.step import find, settings_of
from attar.pipeline.tasks import TaskSettings, parse_task
from attar.runtime.errors import SettingsError


@dataclass(frozen=True)
class DataSettings:
    """Where the texts come from; `train` and `unlabelled` may be several files.

    `train` alone is split by `seed`; `dev` and `test` are counts, fractions or files. `unlabelled` texts are for
    distillation only: files or assets, or tables of one with a `column` of it, perhaps cut into `sentences`. So is what
    is made of each training text: `crops` random spans, `replacements` copies with words near its own in the embeddings
    of the teacher's encoder, `ngrams` copies with words drawn from a bigram model, `masks` copies with words that are
    its mask token.
    `outside`: texts that belong to no class, from which the report tells how well a classifier's score sets them apart.
    """

    train: str | tuple[str, ...]
    dev: int | float | str = 0.1
    test: int | float | str = 0.2
    unlabelled: tuple[Source, ...] = ()
    crops: int = 0
    replacements: int = 0
    ngrams: int = 0
    masks: int = 0
    outside: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    seed: int = 13

    def __post_init__(self) -> None:
        for name in ("crops", "replacements", "ngrams", "masks"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise SettingsError(f"[data] {name} must be a number of texts, 0 or more, not {count!r}")

    @property
    def augmentation(self) -> Augmentation:
        """What is made of the training texts."""
        return Augmentation(self.crops, self.replacements, self.ngrams, self.masks, self.seed)


@dataclass(frozen=True)
class TeacherSettings:
    """`model`: a pretrained encoder to fine-tune with `settings`, or with `fine_tuned` a model used as it is.

    `more`: fine-tuned teachers of the same task, whose outputs are averaged with the first one's for the student:
    plainly, or with `ensemble = "weighted"` each as far as it is sure. The gate judges by the first alone.
    """

    model: str
    fine_tuned: bool = False
    more: tuple[str, ...] = ()
    ensemble: str = "average"
    settings: finetune.Settings = field(default_factory=finetune.Settings)

    def __post_init__(self) -> None:
        if not isinstance(self.more, tuple) or not all(isinstance(name, str) for name in self.more):
            raise SettingsError(f'[teacher] more must be a list of models, like ["path/to/model"], not {self.more!r}')
        if self.ensemble not in WAYS:
            raise SettingsError(f"[teacher] ensemble {self.ensemble!r} is unknown; known: {', '.join(WAYS)}")
        if self.ensemble != "average" and not self.more:
            raise SettingsError("[teacher] ensemble says how teachers are averaged: name the others in more")


@dataclass(frozen=True)
class StepSpec:
    """One step: its file, its settings, and what it may cost in points on dev (None: no limit).

    With `must_pay` the step is dropped unless it is measurably faster than what it was given.
    """

    use: str
    settings: Any
    max_loss: float | None = None
    must_pay: bool = False


@dataclass(frozen=True)
class BenchSettings:
    """`rounds` of interleaved measurements on `texts` texts of the test split."""

    rounds: int = 9
    texts: int = 512


@dataclass(frozen=True)
class Recipe:
    """An ordered list of steps between a teacher and a bundle; `text` is the file as it was read."""

    name: str
    data: DataSettings
    teacher: TeacherSettings
    steps: tuple[StepSpec, ...]
    task: TaskSettings = field(default_factory=TaskSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    bench: BenchSettings = field(default_factory=BenchSettings)
    text: str = ""

    @property
    def quantizes(self) -> bool:
        return any(s.use.startswith("compress.quantize.") for s in self.steps)


def read_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe; `SettingsError` names the file, the table and the key that is wrong."""
    record, text = _toml(path)
    try:
        return parse(record, text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _toml(path: Path) -> tuple[dict[str, Any], str]:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except FileNotFoundError as error:
        raise SettingsError(f"no recipe at {path}; the shipped ones are in recipes/") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from error


def read_steps(path: Path) -> tuple[StepSpec, ...]:
    """Steps alone: a TOML file of [[step]] tables and nothing else; `SettingsError` names the file and the key."""
    record, _ = _toml(path)
    try:
        for key in record:
            if key != "step":
                raise SettingsError(f"has the key {key!r}, but only [[step]] tables are read here; leave it out")
        if not record.get("step"):
            raise SettingsError('has no [[step]] table, like one with use = "compress.quantize.int8"')
        return tuple(_step(s, i) for i, s in enumerate(record["step"], 1))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def read_ladder(path: Path) -> tuple[Recipe, ...]:
    """Several students of one teacher: a recipe whose [[rung]] tables have a name and steps of their own."""
    record, text = _toml(path)
    rungs = record.pop("rung", [])
    try:
        if not rungs or "step" in record:
            raise SettingsError("a ladder has tables [[rung]] with a name, and its steps are [[rung.step]]")
        names = [str(rung.get("name", "")) for rung in rungs]
        wrong = [name for name in names if not re.fullmatch(r"[\w-]+", name) or names.count(name) > 1]
        if wrong:
            raise SettingsError(f"rung {wrong[0]!r}: every rung needs a name of its own, of letters, digits, - and _")
        return tuple(_rung(record, name, rung, text) for name, rung in zip(names, rungs, strict=True))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def _rung(record: Mapping[str, Any], name: str, rung: Mapping[str, Any], text: str) -> Recipe:
    for key in rung:
        if key not in ("name", "step"):
            raise SettingsError(f"rung {name!r} has no key {key!r}; known: name, step")
    try:
        return parse({**record, "name": name, "step": rung.get("step", [])}, text)
    except SettingsError as error:
        raise SettingsError(f"rung {name!r}: {error}") from error


def parse(record: Mapping[str, Any], text: str = "") -> Recipe:
    """A recipe from parsed TOML."""
    if "rung" in record:
        raise SettingsError("this is a ladder of several students: give it to `attar ladder`")
    known = {"name", "data", "task", "teacher", "step", "gate", "bench"}
    for key in record:
        if key not in known:
            raise SettingsError(f"the recipe has no key {key!r}; known: {', '.join(sorted(known))}")
    for key in ("name", "data", "teacher"):
        if key not in record:
            raise SettingsError(f"the recipe lacks {key!r}")
    data: DataSettings = settings_of(DataSettings, _with_sources(record["data"]), "[data]")
    task = parse_task(record.get("task", {}))
    if task.kind == "question-answering" and any(each.column or each.sentences for each in data.unlabelled):
        raise SettingsError(
            "[data] unlabelled: question-answering reads pairs of question and context, not single texts; name files "
            "of questions, without column and sentences"
        )
    if task.kind == "question-answering" and (data.replacements or data.ngrams or data.masks):
        raise SettingsError(
            "[data] replacements, ngrams and masks do not go with question-answering: with other words in question or "
            "context there may be no answer; leave them out, and give more questions as unlabelled"
        )
    return Recipe(
        name=str(record["name"]),
        data=data,
        teacher=_teacher(record["teacher"]),
        steps=tuple(_step(s, i) for i, s in enumerate(record.get("step", []), 1)),
        task=task,
        gate=settings_of(GateSettings, record.get("gate", {}), "[gate]"),
        bench=settings_of(BenchSettings, record.get("bench", {}), "[bench]"),
        text=text,
    )


def _with_sources(data: Mapping[str, Any]) -> dict[str, Any]:
    """The [data] table with `unlabelled` as sources: one entry or a list of them, each a name or a table."""
    given = data.get("unlabelled", [])
    return {**data, "unlabelled": [_source(each) for each in (given if isinstance(given, list) else [given])]}


def _source(given: object) -> Source:
    table = {"source": given} if isinstance(given, str) else given
    if not isinstance(table, dict) or "source" not in table:
        raise SettingsError(
            '[data] unlabelled: an entry is a file or an asset, or a table like { source = "notes.csv", column = '
            f'"body", sentences = true }}, not {given!r}'
        )
    source: Source = settings_of(Source, table, "[data] unlabelled")
    return source


def _teacher(record: Mapping[str, Any]) -> TeacherSettings:
    own = {f.name for f in fields(TeacherSettings)} - {"settings"}
    tuning = {k: v for k, v in record.items() if k not in own}
    known = sorted(own | {f.name for f in fields(finetune.Settings)})
    for key in tuning:
        if key not in known:
            raise SettingsError(f"[teacher] has no setting {key!r}; known: {', '.join(known)}")
    settings = settings_of(finetune.Settings, tuning, "[teacher]")
    rest = {k: v for k, v in record.items() if k in own}
    teacher: TeacherSettings = settings_of(TeacherSettings, {**rest, "settings": settings}, "[teacher]")
    return teacher


def _step(record: Mapping[str, Any], number: int) -> StepSpec:
    if "use" not in record:
        raise SettingsError(f"step {number} lacks 'use', the file it names (like compress.prune.heads)")
    use = record["use"]
    own = {k: v for k, v in record.items() if k in {"max_loss", "must_pay"}}
    settings = find(use).Settings
    # A step that chooses by a loss of its own (quantize.int8) keeps to the same limit as its result.
    shared = {k for k in own if k in {f.name for f in fields(settings)}}
    rest = {k: v for k, v in record.items() if k != "use" and (k not in own or k in shared)}
    return StepSpec(use, settings_of(settings, rest, f"step {number} ({use})"), **own)
