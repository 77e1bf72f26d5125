"""The recipe's data: read, split, checked for texts in two parts, and labelled in the task's own terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attar.distill.data.assets import resolve_data, resolve_model
from attar.distill.data.augment import augmented
from attar.distill.data.split import Splits, check_disjoint, join_answers, remove_overlap, split
from attar.distill.data.unlabelled import Source, read_unlabelled
from attar.distill.finetune import local_folder
from attar.pipeline.recipe import Recipe
from attar.runtime.data import Examples
from attar.runtime.errors import DataError, SettingsError
from attar.runtime.tasks import embeddings
from attar.runtime.tasks.base import Task
from attar.runtime.tasks.embeddings import Embedding
from attar.runtime.tasks.multi import MultiTask

NOTHING = Examples((), None, "nothing")


@dataclass(frozen=True)
class Data:
    """The splits, the unlabelled texts and those that belong to no class, with no text in two of them."""

    splits: Splits
    unlabelled: Examples
    outside: Examples


def read_data(recipe: Recipe, override: str | None = None) -> Data:
    """Reads, checks and splits the recipe's data; `override` replaces `train` by a user's own file."""
    d = recipe.data
    kind, heads = recipe.task.kind, recipe.task.columns

    def labelled(spec: str | tuple[str, ...]) -> Examples:
        files = (spec,) if isinstance(spec, str) else spec
        found = [resolve_data(f, kind=kind, heads=heads, text=d.text_column, label=d.label_column) for f in files]
        whole = concatenated(found)
        return join_answers(whole) if kind == "question-answering" else whole

    def plain(*sources: Source) -> Examples:
        found = [read_unlabelled(source, kind=kind, heads=heads, text=d.text_column) for source in sources]
        return concatenated(found) if found else NOTHING

    everything = labelled(override or d.train)
    if override is None and (isinstance(d.dev, str) or isinstance(d.test, str)):
        if not (isinstance(d.dev, str) and isinstance(d.test, str)):
            raise DataError("[data] dev and test are either both files or both sizes")
        dev, test = labelled(d.dev), labelled(d.test)
        splits = Splits(train=remove_overlap(everything, dev, test), dev=remove_overlap(dev, test), test=test)
    else:
        # A user's own file is split by itself: the recipe's dev and test are other data.
        dev_size, test_size = (x if not isinstance(x, str) else y for x, y in ((d.dev, 0.1), (d.test, 0.2)))
        splits = split(everything, dev=dev_size, test=test_size, seed=d.seed)
    check_disjoint(splits)
    if kind == "embeddings" and any(isinstance(text, tuple) for text in splits.train.texts):
        singles = flattened(splits.train)
        splits = replace(splits, train=remove_overlap(singles, flattened(splits.dev), flattened(splits.test)))
    given = plain(*d.unlabelled)
    _check_alike(splits.train, given)
    # The words of the pretrained encoder: it is at hand before the teacher is, and the student begins with them.
    extra = augmented(
        splits.train, d.augmentation, lambda: local_folder(resolve_model(recipe.teacher.model)),
        splits.dev, splits.test, given,
    )  # fmt: skip
    extra = Examples(extra.texts + given.texts, None, given.source if given.texts else extra.source)
    rest = remove_overlap(extra, splits.train, splits.dev, splits.test)
    outside = (Source(d.outside),) if d.outside and override is None else ()
    return Data(splits, rest, plain(*outside))


def _check_alike(train: Examples, unlabelled: Examples) -> None:
    """Raise DataError where a network that reads pairs would be taught on single texts, or the other way round."""
    pairs = any(isinstance(text, tuple) for text in train.texts)
    wrong = [text for text in unlabelled.texts if isinstance(text, tuple) != pairs]
    if wrong:
        wanted, found = ("pairs", "single texts") if pairs else ("single texts", "pairs")
        raise DataError(f"{unlabelled.source}: unlabelled {wrong[0]!r}: training is on {wanted}, not on {found}")


def read_for(
    task: Task, spec: str, *, text: str | None = None, label: str | None = None, require_labels: bool = True,
    recipe: Recipe | None = None,
) -> Examples:  # fmt: skip
    """Data for a model's task. The columns of a multi-task model's heads are the recipe's, or `label` ("intent,tags")
    in the order of the heads, or called like the heads."""
    heads: tuple[tuple[str, str, str], ...] = ()
    if isinstance(task, MultiTask):
        heads = task.columns(label.split(",") if label else [c for _, _, c in recipe.task.columns] if recipe else ())
        label = None
    found = resolve_data(spec, kind=task.kind, heads=heads, text=text, label=label, require_labels=require_labels)
    return join_answers(found) if task.kind == "question-answering" and found.labels is not None else found


def flattened(examples: Examples) -> Examples:
    """Pairs as the single texts that an embedder learns to imitate its teacher on; single texts as they are."""
    if all(isinstance(text, str) for text in examples.texts):
        return examples
    return Examples(embeddings.singles(examples.texts), None, examples.source)


def singles(task: Task, train: Examples, *others: Examples) -> Examples:
    """What a task's student learns from: of scored pairs an embedder's learns from the texts that no other part has."""
    if task.kind != "embeddings" or all(isinstance(text, str) for text in train.texts):
        return train
    return remove_overlap(flattened(train), *map(flattened, others))


def concatenated(parts: Sequence[Examples]) -> Examples:
    """Several files as one."""
    labels = None if any(p.labels is None for p in parts) else tuple(x for p in parts for x in p.labels or ())
    return Examples(tuple(t for p in parts for t in p.texts), labels, " + ".join(p.source for p in parts))


def _check_judged(task: Embedding, part: Examples) -> None:
    fits, data = ("Spearman", "scored pairs") if isinstance(part.texts[0], tuple) else ("recall@1", "single texts")
    if task.judged_by != fits:
        raise SettingsError(
            f"{part.source}: holds {data}, but the task is judged by {task.judged_by}; set judged_by = {fits!r} in "
            "[task], and give dev and test of one kind"
        )


def named_splits(task: Task, splits: Splits) -> Splits:
    """The splits with labels in the task's own terms; `DataError` where a part has a label that training lacks.

    An embedder may be distilled on texts without labels; whatever is judged by needs them.
    """
    if isinstance(task, Embedding):
        _check_judged(task, splits.dev)
        _check_judged(task, splits.test)
    free = task.kind == "embeddings" and splits.train.labels is None
    train = splits.train if free else named(splits.train, task)
    return replace(splits, train=train, dev=named(splits.dev, task), test=named(splits.test, task))


def named(examples: Examples, task: Task, source: str | None = None) -> Examples:
    """The examples with labels in the task's own terms; `DataError` names the file and what is wrong."""
    try:
        labels = task.named(examples.labels or (), examples.texts)
    except DataError as error:
        raise DataError(f"{source or examples.source}: {error}") from error
    return replace(examples, labels=labels, source=source or examples.source)
